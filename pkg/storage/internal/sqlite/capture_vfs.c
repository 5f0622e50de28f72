#include "engine.h"

#include <string.h>

#include "capture.h"
#include "vfs.h"

/*
** The file layer of captures. It knows one file per connection, which is handed to it
** on the thread that opens it (agentd_capture_hand), so that no name leads to a
** capture. There are no journals, no temporary files, no locks and no libraries.
** Clock and randomness are those of the layer that SQLite brings.
*/

enum {
  RC_OK = 0, RC_ERROR = 1, RC_NOTFOUND = 12, RC_CANTOPEN = 14,
  RC_IOERR_READ = 10 | 1 << 8, RC_SHORT_READ = 10 | 2 << 8, RC_IOERR_WRITE = 10 | 3 << 8,
  OPEN_MAIN_DB = 0x100,
  CONTROL_COMMIT_PHASETWO = 22,
  POWERSAFE_OVERWRITE = 0x1000, /* a write touches no byte beside it */
  MAX_PATH = 64
};

typedef struct capture_file {
  sqlite3_file head;
  agentd_capture *capture;
} capture_file;

static agentd_capture *capture_of(sqlite3_file *f) { return ((capture_file *)f)->capture; }

static sqlite3_vfs *base; /* set once, by agentd_capture_register */
static __thread agentd_capture *handed;

void agentd_capture_hand(agentd_capture *c) { handed = c; }

static int file_close(sqlite3_file *f) {
  agentd_capture *c = capture_of(f);
  c->open = 0;
  if (c->orphan) agentd_capture_free(c);
  return RC_OK;
}

/* SQLite reads pages, and parts of the first. */
static int file_read(sqlite3_file *f, void *to, int n, int64_t at) {
  agentd_capture *c = capture_of(f);
  uint32_t no;
  int within = (int)(at % PAGE_BYTES), rc;
  if (at < 0 || n < 0 || within + n > PAGE_BYTES || at / PAGE_BYTES >= UINT32_MAX) return RC_IOERR_READ;
  no = (uint32_t)(at / PAGE_BYTES) + 1;
  if (no > c->staging.pages) {
    memset(to, 0, (size_t)n);
    return RC_SHORT_READ;
  }
  if (n == PAGE_BYTES) {
    rc = agentd_capture_read(c, no, to);
  } else {
    unsigned char page[PAGE_BYTES];
    rc = agentd_capture_read(c, no, page);
    if (rc == RC_OK) memcpy(to, page + within, (size_t)n);
  }
  if (rc != RC_OK) memset(to, 0, (size_t)n);
  return rc;
}

static int file_write(sqlite3_file *f, const void *from, int n, int64_t at) {
  if (n != PAGE_BYTES || at < 0 || at % PAGE_BYTES != 0 || at / PAGE_BYTES >= UINT32_MAX)
    return agentd_capture_lose(capture_of(f), RC_IOERR_WRITE, AGENTD_LOST_OTHER);
  return agentd_capture_write(capture_of(f), (uint32_t)(at / PAGE_BYTES) + 1, from);
}

static int file_truncate(sqlite3_file *f, int64_t size) {
  if (size < 0 || size % PAGE_BYTES != 0 || size / PAGE_BYTES >= UINT32_MAX) return RC_IOERR_WRITE;
  agentd_capture_truncate(capture_of(f), (uint32_t)(size / PAGE_BYTES));
  return RC_OK;
}

static int file_sync(sqlite3_file *f, int flags) { (void)f; (void)flags; return RC_OK; }

static int file_size(sqlite3_file *f, int64_t *size) {
  *size = (int64_t)capture_of(f)->staging.pages * PAGE_BYTES;
  return RC_OK;
}

static int file_lock(sqlite3_file *f, int level) { (void)f; (void)level; return RC_OK; }
static int file_check_lock(sqlite3_file *f, int *held) { (void)f; *held = 0; return RC_OK; }

static int file_control(sqlite3_file *f, int op, void *arg) {
  (void)arg;
  return op == CONTROL_COMMIT_PHASETWO ? agentd_capture_commit(capture_of(f)) : RC_NOTFOUND;
}

static int file_sector_size(sqlite3_file *f) { (void)f; return PAGE_BYTES; }
static int file_characteristics(sqlite3_file *f) { (void)f; return POWERSAFE_OVERWRITE; }

static const sqlite3_io_methods methods = {
    1, file_close, file_read, file_write, file_truncate, file_sync, file_size, file_lock, file_lock, file_check_lock,
    file_control, file_sector_size, file_characteristics};

static int vfs_open(sqlite3_vfs *v, const char *path, sqlite3_file *f, int flags, int *out_flags) {
  capture_file *file = (capture_file *)f;
  (void)v;
  (void)path;
  file->head.methods = 0;
  if (!(flags & OPEN_MAIN_DB) || !handed) return RC_CANTOPEN;
  file->capture = handed;
  file->head.methods = &methods;
  handed->open = 1;
  handed = 0;
  if (out_flags) *out_flags = flags;
  return RC_OK;
}

static int vfs_remove(sqlite3_vfs *v, const char *path, int sync) { (void)v; (void)path; (void)sync; return RC_OK; }

static int vfs_access(sqlite3_vfs *v, const char *path, int flags, int *result) {
  (void)v;
  (void)path;
  (void)flags;
  *result = 0;
  return RC_OK;
}

static int vfs_full_path(sqlite3_vfs *v, const char *path, int n, char *out) {
  size_t len = strlen(path);
  (void)v;
  if (len >= (size_t)n) return RC_CANTOPEN;
  memcpy(out, path, len + 1);
  return RC_OK;
}

static void *vfs_library_open(sqlite3_vfs *v, const char *path) { (void)v; (void)path; return 0; }
static void vfs_library_close(sqlite3_vfs *v, void *library) { (void)v; (void)library; }
static void (*vfs_library_symbol(sqlite3_vfs *v, void *library, const char *name))(void) {
  (void)v;
  (void)library;
  (void)name;
  return 0;
}
static void vfs_library_error(sqlite3_vfs *v, int n, char *out) {
  (void)v;
  if (n > 0) out[0] = 0;
}

static int vfs_randomness(sqlite3_vfs *v, int n, char *out) { (void)v; return base->randomness(base, n, out); }
static int vfs_sleep(sqlite3_vfs *v, int us) { (void)v; return base->sleep(base, us); }
static int vfs_time(sqlite3_vfs *v, double *t) { (void)v; return base->time(base, t); }
static int vfs_time_ms(sqlite3_vfs *v, int64_t *t) { (void)v; return base->time_ms(base, t); }
static int vfs_last_error(sqlite3_vfs *v, int n, char *out) { (void)v; (void)n; (void)out; return agentd_capture_errno(); }

static sqlite3_vfs layer = {
    .version = 2,
    .file_bytes = sizeof(capture_file),
    .max_path = MAX_PATH,
    .name = AGENTD_CAPTURE_VFS,
    .open = vfs_open,
    .remove = vfs_remove,
    .access = vfs_access,
    .full_path = vfs_full_path,
    .library_open = vfs_library_open,
    .library_error = vfs_library_error,
    .library_symbol = vfs_library_symbol,
    .library_close = vfs_library_close,
    .randomness = vfs_randomness,
    .sleep = vfs_sleep,
    .time = vfs_time,
    .last_error = vfs_last_error,
    .time_ms = vfs_time_ms,
};

int agentd_capture_register(const char *clock_vfs) {
  base = sqlite3_vfs_find(clock_vfs);
  if (!base || base->version < 2) return RC_ERROR;
  agentd_checksum_initialize();
  return sqlite3_vfs_register(&layer, 0);
}
