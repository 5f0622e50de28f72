// Package arch is a test: it parses every import of the repository and fails,
// with file and line, where an arrow points up or a third-party module comes in by
// the wrong door. The layers are described in docs/architecture.md.
package arch
