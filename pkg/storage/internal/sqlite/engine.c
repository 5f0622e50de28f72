#include "engine.h"
#include "capture.h"

#ifdef __GLIBC__
#include <malloc.h>
#endif
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Numbers of SQLite's stable interface. */
enum {
  RC_OK = 0, RC_NOMEM = 7, RC_INTERRUPT = 9, RC_ROW = 100, RC_DONE = 101,
  CONFIG_LOOKASIDE = 13, CONFIG_PAGECACHE = 7,
  DBCONFIG_ENABLE_FKEY = 1002, DBCONFIG_NO_CKPT_ON_CLOSE = 1006, DBCONFIG_DEFENSIVE = 1010,
  DBCONFIG_TRUSTED_SCHEMA = 1017,
  FCNTL_RESERVE_BYTES = 38, TXN_WRITE = 2,
  DBSTATUS_CACHE_WRITE = 9, STMTSTATUS_MEMUSED = 99,
  PROGRESS_OPS = 2000
};
#define TRANSIENT ((void (*)(void *)) - 1)

int agentd_authorize(void *arg, int action, const char *a3, const char *a4, const char *db, const char *inner);

int agentd_initialize(int lookaside_size, int lookaside_count) {
  /* Refused (MISUSE) if another user of SQLite in this process was first; databases
  ** then merely cost more memory. */
  sqlite3_config(CONFIG_LOOKASIDE, lookaside_size, lookaside_count);
  sqlite3_config(CONFIG_PAGECACHE, (void *)0, 0, 0);
#ifdef __GLIBC__
  /* SQLite's memory comes and goes with agents. One pool for each thread would only
  ** scatter it (SQLite counts under one lock anyway), and giving every little piece
  ** back to the kernel makes the next agent fault it in again. */
  mallopt(M_ARENA_MAX, 2);
  mallopt(M_TRIM_THRESHOLD, 4 << 20);
#endif
  return sqlite3_initialize();
}

int64_t agentd_written(agentd_conn *c) {
  int now = 0, high = 0;
  if (c->capture) return c->capture->staging.count;
  sqlite3_db_status(c->db, DBSTATUS_CACHE_WRITE, &now, &high, 0);
  return now;
}

int agentd_limit(agentd_conn *c, int id, int value) { return sqlite3_limit(c->db, id, value); }

/* Runs every PROGRESS_OPS steps of a statement, on its thread. */
static int agentd_progress(void *arg) {
  agentd_conn *c = arg;
  if (__atomic_load_n(&c->interrupted, __ATOMIC_ACQUIRE)) c->stop = AGENTD_STOP_INTERRUPT;
  else if (c->written_max && agentd_written(c) - c->written_base > c->written_max) c->stop = AGENTD_STOP_WRITTEN;
  else if (c->memory_max && sqlite3_memory_used() - c->memory_base > c->memory_max) c->stop = AGENTD_STOP_MEMORY;
  return c->stop != AGENTD_STOP_NONE;
}

static int agentd_on_commit(void *arg, sqlite3 *db, const char *name, int frames) {
  (void)db;
  (void)name;
  ((agentd_conn *)arg)->wal_frames = frames;
  return RC_OK;
}

int agentd_open(const char *path, int flags, const char *vfs, agentd_conn **out) {
  agentd_conn *c = calloc(1, sizeof *c);
  int rc;
  *out = c;
  if (!c) return RC_NOMEM;
  rc = sqlite3_open_v2(path, &c->db, flags, vfs);
  if (rc != RC_OK) return rc;
  c->autocommit = 1;
  sqlite3_extended_result_codes(c->db, 1);
  sqlite3_db_config(c->db, DBCONFIG_ENABLE_FKEY, 1, (int *)0);
  sqlite3_db_config(c->db, DBCONFIG_DEFENSIVE, 1, (int *)0);
  sqlite3_db_config(c->db, DBCONFIG_TRUSTED_SCHEMA, 0, (int *)0);
  sqlite3_set_authorizer(c->db, agentd_authorize, c);
  sqlite3_progress_handler(c->db, PROGRESS_OPS, agentd_progress, c);
  sqlite3_wal_hook(c->db, agentd_on_commit, c); /* takes the place of the automatic checkpoint */
  return RC_OK;
}

/* SQLite has ended a write transaction without a commit. */
static void agentd_on_rollback(void *arg) { agentd_capture_discard(arg); }

/*
** Dirty pages beyond the cache spill into the capture's staging list, from where they
** need not be copied again, where their number is exact (MaxPages), and where they are
** not taken for the statement's own memory.
*/
static const char capture_pragmas[] =
    "PRAGMA locking_mode=EXCLUSIVE;"
    "PRAGMA journal_mode=MEMORY;"
    "PRAGMA synchronous=OFF;"
    "PRAGMA temp_store=MEMORY;"
    "PRAGMA cache_size=-512;"
    "PRAGMA cache_spill=1024;"
    "PRAGMA max_page_count=2621440;";

int agentd_open_capture(struct agentd_capture *file, int flags, agentd_conn **out) {
  int reserve = PAGE_RESERVED, rc;
  agentd_capture_hand(file);
  rc = agentd_open("agent", flags, AGENTD_CAPTURE_VFS, out);
  agentd_capture_hand(0);
  if (!*out) return rc;
  (*out)->capture = file;
  if (rc != RC_OK) return rc;
  sqlite3_rollback_hook((*out)->db, agentd_on_rollback, file);
  rc = sqlite3_file_control((*out)->db, "main", FCNTL_RESERVE_BYTES, &reserve);
  return rc != RC_OK ? rc : agentd_exec(*out, capture_pragmas);
}

int agentd_close(agentd_conn *c, int checkpoint) {
  int rc;
  if (c->db && !checkpoint) sqlite3_db_config(c->db, DBCONFIG_NO_CKPT_ON_CLOSE, 1, (int *)0);
  rc = sqlite3_close_v2(c->db);
  if (c->capture && c->capture->open) c->capture->orphan = 1; /* a statement was not finalized */
  else if (c->capture) agentd_capture_free(c->capture);
  free(c->row);
  free(c);
  return rc;
}

static void agentd_before(agentd_conn *c, int mode) {
  c->mode = mode;
  c->stop = AGENTD_STOP_NONE;
  c->denied[0] = 0;
  if (c->capture) c->capture->staging.why = AGENTD_LOST_OTHER;
}

/* What a lost transaction was lost for, and an end to what SQLite left staged. */
static void agentd_after_capture(agentd_conn *c) {
  agentd_staging *s = &c->capture->staging;
  if (s->why == AGENTD_LOST_FULL) c->stop = AGENTD_STOP_WRITTEN;
  if (s->why == AGENTD_LOST_UNTAKEN)
    snprintf(c->denied, sizeof c->denied, "the delta of the commit before was not taken: call Take after each");
  if (c->txn < TXN_WRITE && (s->count > 0 || s->lost)) agentd_capture_discard(c->capture);
}

static void agentd_after(agentd_conn *c) {
  c->autocommit = sqlite3_get_autocommit(c->db);
  c->txn = sqlite3_txn_state(c->db, "main");
  if (c->capture) agentd_after_capture(c);
}

int agentd_exec(agentd_conn *c, const char *sql) {
  int rc;
  agentd_before(c, AGENTD_PLATFORM);
  rc = sqlite3_exec(c->db, sql, 0, 0, 0);
  agentd_after(c);
  return rc;
}

int agentd_prepare(agentd_conn *c, int mode, const char *sql, int n, agentd_prepared *out) {
  const char *tail = sql;
  int rc;
  agentd_before(c, mode);
  c->ddl = c->alters = 0;
  rc = sqlite3_prepare_v3(c->db, sql, n, 0, &out->stmt, &tail);
  out->tail = (int)(tail - sql);
  if (rc != RC_OK || !out->stmt) return rc;
  out->ncol = sqlite3_column_count(out->stmt);
  out->nparam = sqlite3_bind_parameter_count(out->stmt);
  out->readonly = sqlite3_stmt_readonly(out->stmt) != 0;
  out->memory = sqlite3_stmt_status(out->stmt, STMTSTATUS_MEMUSED, 0);
  out->ddl = c->ddl;
  out->alters = c->alters;
  return RC_OK;
}

static int agentd_bind(sqlite3_stmt *s, const agentd_value *v, int n, const char *data) {
  int i, rc = RC_OK;
  for (i = 0; i < n && rc == RC_OK; i++) {
    switch (v[i].type) {
    case 1: rc = sqlite3_bind_int64(s, i + 1, v[i].u.i); break;
    case 2: rc = sqlite3_bind_double(s, i + 1, v[i].u.d); break;
    case 3: rc = sqlite3_bind_text(s, i + 1, v[i].size ? data + v[i].u.i : "", v[i].size, TRANSIENT); break;
    case 4:
      rc = v[i].size ? sqlite3_bind_blob(s, i + 1, data + v[i].u.i, v[i].size, TRANSIENT)
                     : sqlite3_bind_zeroblob(s, i + 1, 0);
      break;
    default: rc = sqlite3_bind_null(s, i + 1);
    }
  }
  return rc;
}

int agentd_export(agentd_conn *c, sqlite3_stmt *s) {
  int i, n = sqlite3_column_count(s);
  if (n > c->row_cap) {
    agentd_value *row = realloc(c->row, (size_t)n * sizeof *row);
    if (!row) return RC_NOMEM;
    c->row = row;
    c->row_cap = n;
  }
  c->ncol = n;
  for (i = 0; i < n; i++) {
    agentd_value *v = &c->row[i];
    v->type = sqlite3_column_type(s, i);
    v->size = 0;
    switch (v->type) {
    case 1: v->u.i = sqlite3_column_int64(s, i); break;
    case 2: v->u.d = sqlite3_column_double(s, i); break;
    case 3:
      v->u.p = sqlite3_column_text(s, i);
      v->size = sqlite3_column_bytes(s, i);
      break;
    case 4:
      v->u.p = sqlite3_column_blob(s, i);
      v->size = sqlite3_column_bytes(s, i);
      break;
    }
    if (v->size && !v->u.p) return RC_NOMEM;
  }
  return RC_ROW;
}

int agentd_next(agentd_conn *c, sqlite3_stmt *s, int mode) {
  int rc;
  agentd_before(c, mode);
  if (__atomic_load_n(&c->interrupted, __ATOMIC_ACQUIRE)) {
    c->stop = AGENTD_STOP_INTERRUPT;
    return RC_INTERRUPT;
  }
  rc = sqlite3_step(s);
  if (rc == RC_ROW) rc = agentd_export(c, s);
  else if (rc == RC_DONE) c->changes = sqlite3_changes64(c->db);
  agentd_after(c);
  c->total = sqlite3_total_changes64(c->db);
  return rc;
}

int agentd_run(agentd_conn *c, sqlite3_stmt *s, int mode, const agentd_value *args, int nargs, const char *data) {
  int rc = agentd_bind(s, args, nargs, data);
  if (rc != RC_OK) return rc;
  c->memory_base = c->memory_max ? sqlite3_memory_used() : 0;
  return agentd_next(c, s, mode);
}

int agentd_release(sqlite3_stmt *s) {
  int rc = sqlite3_reset(s);
  sqlite3_clear_bindings(s);
  return rc;
}

int agentd_checkpoint(agentd_conn *c) {
  agentd_before(c, AGENTD_PLATFORM);
  return sqlite3_wal_checkpoint_v2(c->db, "main", 0 /* passive */, 0, 0);
}

void agentd_interrupt(agentd_conn *c) { __atomic_store_n(&c->interrupted, 1, __ATOMIC_RELEASE); }

void agentd_clear_interrupt(agentd_conn *c) { __atomic_store_n(&c->interrupted, 0, __ATOMIC_RELEASE); }
