/*
** A capture: the file of one connection, as SQLite sees it. It lies over an agent's
** file, which it only reads; what SQLite writes is staged, becomes a delta at the
** commit, and stays in the overlay until the agent's file holds it too.
*/
#ifndef AGENTD_CAPTURE_H
#define AGENTD_CAPTURE_H

#include <pthread.h>

#include "overlay.h"

#define AGENTD_CAPTURE_VFS "agentd-capture"

/* Why a transaction was lost, where the result code does not say it. */
enum { AGENTD_LOST_OTHER = 0, AGENTD_LOST_FULL = 1, AGENTD_LOST_UNTAKEN = 2 };

/* Pages written by the open transaction, by rising number. */
typedef struct agentd_staging {
  agentd_page **page;
  uint32_t count, cap;
  uint32_t pages; /* of the database, as the transaction has it */
  uint32_t cut;   /* pages left by the deepest truncation of this transaction */
  int lost;       /* a write failed: the transaction cannot commit, only end */
  int why;        /* AGENTD_LOST_…: of the last that was lost */
} agentd_staging;

/* The delta of the last commit. */
typedef struct agentd_delta {
  unsigned char *data;
  size_t size, cap;
  int waits; /* for being taken */
} agentd_delta;

typedef struct agentd_capture {
  /* Written by the owner under the mutex, by Applied under the mutex. */
  pthread_mutex_t mutex;
  pthread_cond_t idle; /* reading became 0 */
  agentd_overlay overlay;
  uint64_t applied; /* the file holds all commits up to this */
  int fd;
  int reading; /* the owner reads from fd, outside the mutex */
  int encoding;    /* the owner holds pages of the overlay, outside the mutex */
  agentd_page *limbo; /* what Applied took out of the overlay meanwhile */
  int64_t pending; /* bytes of the overlay */
  uint64_t seq;    /* of the last commit; only the owner writes it, and may read it without the mutex */

  /* The owner's. */
  uint32_t pages;     /* of the database after the last commit */
  uint32_t in_file;   /* pages that the file has had since the beginning: less is damage */
  uint32_t max_pages; /* of one transaction; 0 for no limit */
  uint32_t finals;    /* commits that SQLite announced, changing or not */
  int open;           /* SQLite has the file open */
  int orphan;         /* the connection is gone: whoever closes the file frees the capture */
  agentd_staging staging;
  agentd_delta delta;
} agentd_capture;

agentd_capture *agentd_capture_new(int fd, uint32_t pages, uint64_t seq, uint32_t max_pages);
void agentd_capture_free(agentd_capture *c);

/* The owner's. Results are SQLite's codes. */
int agentd_capture_read(agentd_capture *c, uint32_t no, unsigned char *to);
int agentd_capture_write(agentd_capture *c, uint32_t no, const unsigned char *from);
void agentd_capture_truncate(agentd_capture *c, uint32_t pages);
int agentd_capture_commit(agentd_capture *c);
/* Gives up the open transaction and returns rc. */
int agentd_capture_lose(agentd_capture *c, int rc, int why);
void agentd_capture_discard(agentd_capture *c);
/* The part of a commit in which it holds pages of the overlay; for tests. */
void agentd_capture_hold(agentd_capture *c);
void agentd_capture_release(agentd_capture *c);
void agentd_capture_taken(agentd_capture *c);

/* Any thread. */
void agentd_capture_applied(agentd_capture *c, uint64_t seq, int fd);
int64_t agentd_capture_pending(agentd_capture *c);

/* The errno behind the last failure on this thread; 0 if the system had no part. */
int agentd_capture_errno(void);

int agentd_capture_register(const char *clock_vfs);
/* The next file that this thread opens is c. */
void agentd_capture_hand(agentd_capture *c);

#endif
