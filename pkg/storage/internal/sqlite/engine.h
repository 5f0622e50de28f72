/*
** The door to SQLite: what this package needs of its C interface, and the small
** part of ours that has to be C (authorizer, progress handler, one call per row).
**
** SQLite itself is linked by github.com/mattn/go-sqlite3. The prototypes below are
** of its stable public interface and weak, so that this package also links alone.
*/
#ifndef AGENTD_ENGINE_H
#define AGENTD_ENGINE_H

#include <stdint.h>

typedef struct sqlite3 sqlite3;
typedef struct sqlite3_stmt sqlite3_stmt;
typedef struct sqlite3_value sqlite3_value;

#define AGENTD_EXTERN extern __attribute__((weak))

AGENTD_EXTERN int sqlite3_config(int, ...);
AGENTD_EXTERN int sqlite3_initialize(void);
AGENTD_EXTERN int sqlite3_open_v2(const char *, sqlite3 **, int, const char *);
AGENTD_EXTERN int sqlite3_close_v2(sqlite3 *);
AGENTD_EXTERN int sqlite3_db_config(sqlite3 *, int, ...);
AGENTD_EXTERN int sqlite3_db_status(sqlite3 *, int, int *, int *, int);
AGENTD_EXTERN int sqlite3_limit(sqlite3 *, int, int);
AGENTD_EXTERN int sqlite3_extended_result_codes(sqlite3 *, int);
AGENTD_EXTERN int sqlite3_errcode(sqlite3 *);
AGENTD_EXTERN int sqlite3_system_errno(sqlite3 *);
AGENTD_EXTERN const char *sqlite3_errmsg(sqlite3 *);
AGENTD_EXTERN int sqlite3_exec(sqlite3 *, const char *, int (*)(void *, int, char **, char **), void *, char **);
AGENTD_EXTERN int sqlite3_get_autocommit(sqlite3 *);
AGENTD_EXTERN int sqlite3_txn_state(sqlite3 *, const char *);
AGENTD_EXTERN int64_t sqlite3_changes64(sqlite3 *);
AGENTD_EXTERN int64_t sqlite3_total_changes64(sqlite3 *);
AGENTD_EXTERN int64_t sqlite3_memory_used(void);
AGENTD_EXTERN int sqlite3_set_authorizer(sqlite3 *, int (*)(void *, int, const char *, const char *, const char *, const char *), void *);
AGENTD_EXTERN void sqlite3_progress_handler(sqlite3 *, int, int (*)(void *), void *);
AGENTD_EXTERN void *sqlite3_wal_hook(sqlite3 *, int (*)(void *, sqlite3 *, const char *, int), void *);
AGENTD_EXTERN void *sqlite3_rollback_hook(sqlite3 *, void (*)(void *), void *);
AGENTD_EXTERN int sqlite3_file_control(sqlite3 *, const char *, int, void *);
AGENTD_EXTERN int sqlite3_wal_checkpoint_v2(sqlite3 *, const char *, int, int *, int *);
AGENTD_EXTERN int sqlite3_prepare_v3(sqlite3 *, const char *, int, unsigned int, sqlite3_stmt **, const char **);
AGENTD_EXTERN int sqlite3_finalize(sqlite3_stmt *);
AGENTD_EXTERN int sqlite3_reset(sqlite3_stmt *);
AGENTD_EXTERN int sqlite3_clear_bindings(sqlite3_stmt *);
AGENTD_EXTERN int sqlite3_step(sqlite3_stmt *);
AGENTD_EXTERN int sqlite3_stmt_readonly(sqlite3_stmt *);
AGENTD_EXTERN int sqlite3_stmt_status(sqlite3_stmt *, int, int);
AGENTD_EXTERN int sqlite3_bind_parameter_count(sqlite3_stmt *);
AGENTD_EXTERN int sqlite3_bind_null(sqlite3_stmt *, int);
AGENTD_EXTERN int sqlite3_bind_int64(sqlite3_stmt *, int, int64_t);
AGENTD_EXTERN int sqlite3_bind_double(sqlite3_stmt *, int, double);
AGENTD_EXTERN int sqlite3_bind_text(sqlite3_stmt *, int, const char *, int, void (*)(void *));
AGENTD_EXTERN int sqlite3_bind_blob(sqlite3_stmt *, int, const void *, int, void (*)(void *));
AGENTD_EXTERN int sqlite3_bind_zeroblob(sqlite3_stmt *, int, int);
AGENTD_EXTERN int sqlite3_column_count(sqlite3_stmt *);
AGENTD_EXTERN const char *sqlite3_column_name(sqlite3_stmt *, int);
AGENTD_EXTERN int sqlite3_column_type(sqlite3_stmt *, int);
AGENTD_EXTERN int64_t sqlite3_column_int64(sqlite3_stmt *, int);
AGENTD_EXTERN double sqlite3_column_double(sqlite3_stmt *, int);
AGENTD_EXTERN const unsigned char *sqlite3_column_text(sqlite3_stmt *, int);
AGENTD_EXTERN const void *sqlite3_column_blob(sqlite3_stmt *, int);
AGENTD_EXTERN int sqlite3_column_bytes(sqlite3_stmt *, int);
AGENTD_EXTERN int sqlite3_complete(const char *);

/* Whose SQL a statement is; see Mode in conn.go. */
enum { AGENTD_PLATFORM = 0, AGENTD_USER = 1, AGENTD_READ = 2 };

/* Why the progress handler or the authorizer stopped a statement. */
enum { AGENTD_STOP_NONE = 0, AGENTD_STOP_INTERRUPT = 1, AGENTD_STOP_WRITTEN = 2, AGENTD_STOP_MEMORY = 3 };

/* A bound argument (u.i is then an offset into the data buffer) or a column of the
** current row (u.p is then valid until the next step). */
typedef struct agentd_value {
  int32_t type; /* SQLite's: 1 integer, 2 float, 3 text, 4 blob, 5 null */
  int32_t size; /* bytes of text and blob */
  union { int64_t i; double d; const void *p; } u;
} agentd_value;

/* One connection. Everything but `interrupted` belongs to the goroutine that owns
** the connection. */
typedef struct agentd_conn {
  sqlite3 *db;
  struct agentd_capture *capture; /* its file; NULL for a connection to a file of the system */
  int interrupted;      /* atomic */
  int mode;             /* of the statement that is prepared or stepped */
  int stop;             /* AGENTD_STOP_… of the last statement */
  int ddl;              /* the last prepare saw more than reads and row changes */
  int alters;           /* the last prepare saw ALTER TABLE */
  int autocommit;       /* after the last step: no transaction is open */
  int txn;              /* after the last step: 0 none, 1 read, 2 write */
  int wal_frames;       /* in the write-ahead log after the last commit */
  int ncol;             /* of the current row */
  int row_cap;
  agentd_value *row;
  int64_t changes;      /* of the statement that ended last */
  int64_t total;        /* rows changed since open */
  int64_t written_base; /* pages written before this transaction */
  int64_t written_max;  /* pages that a transaction may write; 0 for no limit */
  int64_t memory_base;  /* SQLite's memory when the statement began */
  int64_t memory_max;   /* bytes that a statement may add; 0 for no limit */
  char denied[160];     /* why the authorizer refused; empty if it did not */
} agentd_conn;

typedef struct agentd_prepared {
  sqlite3_stmt *stmt;
  int tail; /* offset of the first byte after the statement */
  int ncol, nparam, readonly, ddl, alters, memory;
} agentd_prepared;

int agentd_initialize(int lookaside_size, int lookaside_count);
int agentd_register_vfs(const char *under, const char *name);
int agentd_open(const char *path, int flags, const char *vfs, agentd_conn **out);
/* Opens a connection whose file is the capture; agentd_close frees both, also after an
** error. */
int agentd_open_capture(struct agentd_capture *file, int flags, agentd_conn **out);
int agentd_close(agentd_conn *c, int checkpoint);
int agentd_exec(agentd_conn *c, const char *sql);
int agentd_prepare(agentd_conn *c, int mode, const char *sql, int n, agentd_prepared *out);
int agentd_run(agentd_conn *c, sqlite3_stmt *s, int mode, const agentd_value *args, int nargs, const char *data);
int agentd_next(agentd_conn *c, sqlite3_stmt *s, int mode);
int agentd_export(agentd_conn *c, sqlite3_stmt *s);
int agentd_release(sqlite3_stmt *s);
int agentd_checkpoint(agentd_conn *c);
int64_t agentd_written(agentd_conn *c);
int agentd_limit(agentd_conn *c, int id, int value);
void agentd_interrupt(agentd_conn *c);
void agentd_clear_interrupt(agentd_conn *c);

#endif
