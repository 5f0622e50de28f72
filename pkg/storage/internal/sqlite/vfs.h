/* The structures of SQLite's file layer, as its interface fixes them. */
#ifndef AGENTD_VFS_H
#define AGENTD_VFS_H

#include <stdint.h>

typedef struct sqlite3_io_methods sqlite3_io_methods;
typedef struct sqlite3_vfs sqlite3_vfs;
typedef struct sqlite3_file {
  const sqlite3_io_methods *methods;
} sqlite3_file;

/* Version 1: no shared memory, no memory mapping. */
struct sqlite3_io_methods {
  int version;
  int (*close)(sqlite3_file *);
  int (*read)(sqlite3_file *, void *, int n, int64_t at);
  int (*write)(sqlite3_file *, const void *, int n, int64_t at);
  int (*truncate)(sqlite3_file *, int64_t size);
  int (*sync)(sqlite3_file *, int flags);
  int (*size)(sqlite3_file *, int64_t *size);
  int (*lock)(sqlite3_file *, int);
  int (*unlock)(sqlite3_file *, int);
  int (*check_lock)(sqlite3_file *, int *);
  int (*control)(sqlite3_file *, int op, void *);
  int (*sector_size)(sqlite3_file *);
  int (*characteristics)(sqlite3_file *);
};

struct sqlite3_vfs {
  int version;
  int file_bytes;
  int max_path;
  sqlite3_vfs *next;
  const char *name;
  void *data;
  int (*open)(sqlite3_vfs *, const char *path, sqlite3_file *, int flags, int *out_flags);
  int (*remove)(sqlite3_vfs *, const char *path, int sync_folder);
  int (*access)(sqlite3_vfs *, const char *path, int flags, int *result);
  int (*full_path)(sqlite3_vfs *, const char *path, int n, char *out);
  void *(*library_open)(sqlite3_vfs *, const char *path);
  void (*library_error)(sqlite3_vfs *, int n, char *out);
  void (*(*library_symbol)(sqlite3_vfs *, void *, const char *))(void);
  void (*library_close)(sqlite3_vfs *, void *);
  int (*randomness)(sqlite3_vfs *, int n, char *out);
  int (*sleep)(sqlite3_vfs *, int microseconds);
  int (*time)(sqlite3_vfs *, double *julian);
  int (*last_error)(sqlite3_vfs *, int n, char *out);
  int (*time_ms)(sqlite3_vfs *, int64_t *julian);
  void *system_calls[3];
};

AGENTD_EXTERN sqlite3_vfs *sqlite3_vfs_find(const char *);
AGENTD_EXTERN int sqlite3_vfs_register(sqlite3_vfs *, int make_default);

#endif
