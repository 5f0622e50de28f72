// Package sqlite is a narrow door to SQLite for the storage engines: connections,
// statements and rows with SQLite's own five types, limits that hold inside a
// statement, and an authorizer that knows whose SQL it reads.
//
// It is no database/sql driver and no pool. The library itself comes from
// github.com/mattn/go-sqlite3; that package's driver is not used, because it turns
// columns declared as dates into times, gives no handle for interrupts, and takes
// several calls across the C boundary per row where this one takes one.
package sqlite

// The engine compiled into the binary.
import _ "github.com/mattn/go-sqlite3"
