#include "engine.h"
#include "vfs.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

/*
** The file layer "agentd": SQLite's own Unix layer without POSIX locks, with two
** differences.
**
** A write-ahead log that does not exist is created by its first write. SQLite makes
** the file when it opens the database; an agent that wakes, reads and sleeps again
** would then pay for a directory entry that comes and goes, and the file system for
** an inode.
**
** Path names are taken as they are. They are absolute and ours; walking them for
** symbolic links costs a system call per folder and refuses a data folder behind a
** link. The file itself is still opened without following one.
*/

enum {
  RC_OK = 0, RC_CANTOPEN = 14, RC_NOTFOUND = 12, RC_SHORT_READ = 10 | 2 << 8,
  OPEN_WAL = 0x80000,
  SECTOR_BYTES = 4096
};

static sqlite3_vfs *base; /* set once, by agentd_register_vfs */
static sqlite3_vfs layer;

/* A log that may not exist yet. The file of the first layer lies behind it. */
typedef struct agentd_log {
  sqlite3_file head;
  const char *path; /* SQLite keeps it until close */
  int flags;
  int made; /* the file exists and is open */
} agentd_log;

static sqlite3_file *behind(sqlite3_file *f) { return (sqlite3_file *)((agentd_log *)f + 1); }

static int log_make(agentd_log *l) {
  int rc;
  if (l->made) return RC_OK;
  rc = base->open(base, l->path, behind(&l->head), l->flags, 0);
  l->made = rc == RC_OK;
  return rc;
}

static int log_close(sqlite3_file *f) {
  if (!((agentd_log *)f)->made) return RC_OK;
  return behind(f)->methods->close(behind(f));
}

static int log_read(sqlite3_file *f, void *to, int n, int64_t at) {
  if (((agentd_log *)f)->made) return behind(f)->methods->read(behind(f), to, n, at);
  memset(to, 0, (size_t)n);
  return RC_SHORT_READ;
}

static int log_write(sqlite3_file *f, const void *from, int n, int64_t at) {
  int rc = log_make((agentd_log *)f);
  return rc != RC_OK ? rc : behind(f)->methods->write(behind(f), from, n, at);
}

static int log_truncate(sqlite3_file *f, int64_t size) {
  return ((agentd_log *)f)->made ? behind(f)->methods->truncate(behind(f), size) : RC_OK;
}

static int log_sync(sqlite3_file *f, int flags) {
  return ((agentd_log *)f)->made ? behind(f)->methods->sync(behind(f), flags) : RC_OK;
}

static int log_size(sqlite3_file *f, int64_t *size) {
  if (((agentd_log *)f)->made) return behind(f)->methods->size(behind(f), size);
  *size = 0;
  return RC_OK;
}

/* Logs are never locked. */
static int log_lock(sqlite3_file *f, int level) { (void)f; (void)level; return RC_OK; }
static int log_check_lock(sqlite3_file *f, int *held) { (void)f; *held = 0; return RC_OK; }

static int log_control(sqlite3_file *f, int op, void *arg) {
  return ((agentd_log *)f)->made ? behind(f)->methods->control(behind(f), op, arg) : RC_NOTFOUND;
}

static int log_sector_size(sqlite3_file *f) {
  return ((agentd_log *)f)->made ? behind(f)->methods->sector_size(behind(f)) : SECTOR_BYTES;
}

static int log_characteristics(sqlite3_file *f) {
  return ((agentd_log *)f)->made ? behind(f)->methods->characteristics(behind(f)) : 0;
}

static const sqlite3_io_methods log_methods = {
    1, log_close, log_read, log_write, log_truncate, log_sync, log_size, log_lock, log_lock, log_check_lock,
    log_control, log_sector_size, log_characteristics};

static int layer_open(sqlite3_vfs *vfs, const char *path, sqlite3_file *f, int flags, int *out_flags) {
  agentd_log *l = (agentd_log *)f;
  struct stat st;
  int rc;
  (void)vfs;
  if (!(flags & OPEN_WAL)) return base->open(base, path, f, flags, out_flags);
  memset(l, 0, sizeof *l);
  l->path = path;
  l->flags = flags;
  if (lstat(path, &st) == 0 || errno != ENOENT) {
    rc = log_make(l);
    if (rc != RC_OK) return rc; /* without methods: it is not closed */
  }
  l->head.methods = &log_methods;
  if (out_flags) *out_flags = flags;
  return RC_OK;
}

static int layer_full_path(sqlite3_vfs *vfs, const char *path, int n, char *out) {
  size_t len = strlen(path);
  (void)vfs;
  if (path[0] != '/' || len >= (size_t)n) return base->full_path(base, path, n, out);
  memcpy(out, path, len + 1);
  return RC_OK;
}

int agentd_register_vfs(const char *under, const char *name) {
  base = sqlite3_vfs_find(under);
  if (!base) return RC_CANTOPEN;
  layer = *base;
  layer.next = 0;
  layer.name = name;
  layer.file_bytes = base->file_bytes + (int)sizeof(agentd_log);
  layer.open = layer_open;
  layer.full_path = layer_full_path;
  return sqlite3_vfs_register(&layer, 0);
}
