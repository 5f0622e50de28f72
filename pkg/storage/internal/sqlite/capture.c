#include "capture.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* SQLite's result codes. */
enum {
  RC_OK = 0, RC_FULL = 13,
  RC_IOERR_READ = 10 | 1 << 8, RC_IOERR_WRITE = 10 | 3 << 8, RC_IOERR_NOMEM = 10 | 12 << 8, RC_IOERR_DATA = 10 | 32 << 8
};

enum {
  KEEP_PAGES = 6, /* of the overlay, although the file holds them */
  STAGING_MIN = 8,
  STAGING_KEEP = 64,       /* entries of the staging list that survive a transaction */
  DELTA_MIN = 1 << 10,
  DELTA_KEEP = 4 << 10     /* bytes of the delta's buffer that survive Take */
};

static const unsigned char zero_page[PAGE_BYTES];

static __thread int last_errno;

int agentd_capture_errno(void) { return last_errno; }

agentd_capture *agentd_capture_new(int fd, uint32_t pages, uint64_t seq, uint32_t max_pages) {
  agentd_capture *c = calloc(1, sizeof *c);
  if (!c) return 0;
  pthread_mutex_init(&c->mutex, 0);
  pthread_cond_init(&c->idle, 0);
  agentd_overlay_initialize(&c->overlay);
  c->fd = fd;
  c->applied = c->seq = seq;
  c->pages = c->in_file = c->staging.pages = pages;
  c->staging.cut = UINT32_MAX;
  c->max_pages = max_pages;
  return c;
}

void agentd_capture_free(agentd_capture *c) {
  agentd_capture_discard(c);
  free(c->staging.page);
  free(c->delta.data);
  agentd_overlay_free(&c->overlay);
  pthread_cond_destroy(&c->idle);
  pthread_mutex_destroy(&c->mutex);
  free(c);
}

/* ---- Reading ---- */

/* Reads page `no` of the file; past its end there are zeros. */
static int file_page(agentd_capture *c, int fd, uint32_t no, unsigned char *to) {
  int64_t at = (int64_t)(no - 1) * PAGE_BYTES;
  size_t n = 0;
  while (n < PAGE_BYTES) {
    ssize_t r = pread(fd, to + n, PAGE_BYTES - n, at + (int64_t)n);
    if (r > 0) n += (size_t)r;
    else if (r == 0) break;
    else if (errno != EINTR) {
      last_errno = errno;
      return RC_IOERR_READ;
    }
  }
  last_errno = 0;
  if (n < PAGE_BYTES) {
    memset(to + n, 0, PAGE_BYTES - n);
    if (no <= c->in_file) return RC_IOERR_DATA;
  }
  return agentd_page_good(no, to) ? RC_OK : RC_IOERR_DATA;
}

/*
** Page `no`, not beyond c->pages, as of the last commit.
**
** The file is read without the mutex. That is safe although the applier writes the
** file meanwhile: it writes page `no` only for a commit that changed this page, such a
** commit keeps the page in the overlay until it is applied, and only the caller
** commits. So a page that is not in the overlay is at rest.
*/
static int committed_page(agentd_capture *c, uint32_t no, unsigned char *to) {
  agentd_page *p;
  int fd, hidden, rc;
  pthread_mutex_lock(&c->mutex);
  p = agentd_overlay_find(&c->overlay, no);
  if (p) memcpy(to, p->data, PAGE_BYTES);
  hidden = !p && agentd_overlay_hides(&c->overlay, no);
  fd = c->fd;
  c->reading = !p && !hidden;
  pthread_mutex_unlock(&c->mutex);
  if (p) return RC_OK;
  if (hidden) {
    memset(to, 0, PAGE_BYTES);
    return RC_OK;
  }
  rc = file_page(c, fd, no, to);
  pthread_mutex_lock(&c->mutex);
  c->reading = 0;
  pthread_cond_broadcast(&c->idle);
  pthread_mutex_unlock(&c->mutex);
  return rc;
}

/* Where page `no` is in the staging list, or would be. */
static uint32_t staging_index(const agentd_staging *s, uint32_t no) {
  uint32_t low = 0, high = s->count;
  if (high == 0 || s->page[high - 1]->no < no) return high; /* SQLite writes in order */
  while (low < high) {
    uint32_t mid = low + (high - low) / 2;
    if (s->page[mid]->no < no) low = mid + 1;
    else high = mid;
  }
  return low;
}

static agentd_page *staged_page(const agentd_staging *s, uint32_t no) {
  uint32_t i = staging_index(s, no);
  return i < s->count && s->page[i]->no == no ? s->page[i] : 0;
}

/* Page `no` as the open transaction has it; zeros beyond the end. */
int agentd_capture_read(agentd_capture *c, uint32_t no, unsigned char *to) {
  agentd_page *p = staged_page(&c->staging, no);
  if (p) memcpy(to, p->data, PAGE_BYTES);
  else if (no > c->pages || no > c->staging.pages || no > c->staging.cut) memset(to, 0, PAGE_BYTES);
  else return committed_page(c, no, to);
  return RC_OK;
}

/* ---- Staging ---- */

void agentd_capture_discard(agentd_capture *c) {
  agentd_staging *s = &c->staging;
  while (s->count > 0) free(s->page[--s->count]);
  if (s->cap > STAGING_KEEP) {
    free(s->page);
    s->page = 0;
    s->cap = 0;
  }
  s->pages = c->pages;
  s->cut = UINT32_MAX;
  s->lost = 0;
}

/* The transaction is lost: what it staged goes at once, and until SQLite has ended it
** there is nothing to play back and nothing to commit. */
int agentd_capture_lose(agentd_capture *c, int rc, int why) {
  agentd_capture_discard(c);
  c->staging.lost = 1;
  c->staging.why = why;
  return rc;
}

static int lose(agentd_capture *c, int rc) { return agentd_capture_lose(c, rc, AGENTD_LOST_OTHER); }

/* Our trailer is safe only in a database that leaves it alone. */
static int good_header(const unsigned char *page) {
  return page[16] == PAGE_BYTES >> 8 && page[17] == 0 && page[20] == PAGE_RESERVED;
}

static agentd_page *stage(agentd_staging *s, uint32_t i, uint32_t no) {
  agentd_page *p;
  if (s->count == s->cap) {
    uint32_t cap = s->cap ? 2 * s->cap : STAGING_MIN;
    agentd_page **page = agentd_reallocate(s->page, cap * sizeof *page);
    if (!page) return 0;
    s->page = page;
    s->cap = cap;
  }
  p = agentd_reallocate(0, sizeof *p);
  if (!p) return 0;
  p->no = no;
  memmove(s->page + i + 1, s->page + i, (s->count - i) * sizeof *s->page);
  s->page[i] = p;
  s->count++;
  return p;
}

int agentd_capture_write(agentd_capture *c, uint32_t no, const unsigned char *from) {
  agentd_staging *s = &c->staging;
  agentd_page *p;
  uint32_t i;
  if (s->lost) return RC_OK; /* SQLite plays back what is gone already */
  last_errno = 0;
  if (c->delta.waits) return agentd_capture_lose(c, RC_IOERR_WRITE, AGENTD_LOST_UNTAKEN);
  if (no > s->cut) return lose(c, RC_IOERR_WRITE);
  if (no == 1 && !good_header(from)) return lose(c, RC_IOERR_WRITE);
  i = staging_index(s, no);
  p = i < s->count && s->page[i]->no == no ? s->page[i] : 0;
  if (!p) {
    if (c->max_pages > 0 && s->count >= c->max_pages) return agentd_capture_lose(c, RC_FULL, AGENTD_LOST_FULL);
    p = stage(s, i, no);
    if (!p) return lose(c, RC_IOERR_NOMEM);
  }
  memcpy(p->data, from, PAGE_BYTES);
  if (no > s->pages) s->pages = no;
  return RC_OK;
}

void agentd_capture_truncate(agentd_capture *c, uint32_t pages) {
  agentd_staging *s = &c->staging;
  if (s->lost || pages >= s->pages) return;
  while (s->count > 0 && s->page[s->count - 1]->no > pages) free(s->page[--s->count]);
  s->pages = pages;
  if (pages < s->cut) s->cut = pages;
}

/* ---- Commit ---- */

static int delta_append(agentd_delta *d, const unsigned char *from, size_t n) {
  if (d->cap - d->size < n) {
    size_t cap = d->cap ? d->cap : DELTA_MIN;
    unsigned char *data;
    while (cap - d->size < n) cap *= 2;
    data = agentd_reallocate(d->data, cap);
    if (!data) return 0;
    d->data = data;
    d->cap = cap;
  }
  memcpy(d->data + d->size, from, n);
  d->size += n;
  return 1;
}

/* Finds the staged pages' images before the transaction, as far as the overlay has
** them. They live until release_locked, although Applied may take them out. */
void agentd_capture_hold(agentd_capture *c) {
  agentd_staging *s = &c->staging;
  uint32_t i;
  pthread_mutex_lock(&c->mutex);
  c->encoding = 1;
  for (i = 0; i < s->count; i++) s->page[i]->older = agentd_overlay_find(&c->overlay, s->page[i]->no);
  pthread_mutex_unlock(&c->mutex);
}

static agentd_page *release_locked(agentd_capture *c) {
  agentd_page *gone = c->limbo;
  c->limbo = 0;
  c->encoding = 0;
  return gone;
}

/* Appends the entry of a staged page. n is its size; 0 if the page did not change. */
static int encode_page(agentd_capture *c, agentd_page *p, size_t *n) {
  unsigned char before[PAGE_BYTES], entry[DELTA_ENTRY_MAX];
  const unsigned char *old = zero_page;
  int rc = RC_OK;
  *n = 1; /* a page that was not compared did change */
  if (p->older) {
    old = p->older->data;
  } else if (p->no <= c->pages) {
    rc = committed_page(c, p->no, before);
    old = before;
  }
  if (rc != RC_OK) return rc;
  *n = agentd_delta_entry(entry, p->no, p->data, old);
  return delta_append(&c->delta, entry, *n) ? RC_OK : RC_IOERR_NOMEM;
}

/* Writes the delta. Pages that did not change leave the staging list. */
static int encode(agentd_capture *c) {
  agentd_staging *s = &c->staging;
  uint32_t i, kept = 0;
  int rc = RC_OK;
  c->delta.size = 0;
  agentd_capture_hold(c);
  for (i = 0; i < s->count; i++) {
    agentd_page *p = s->page[i];
    size_t n = 1;
    if (rc == RC_OK) rc = encode_page(c, p, &n);
    if (n == 0) free(p);
    else s->page[kept++] = p;
  }
  s->count = kept;
  return rc;
}

void agentd_capture_release(agentd_capture *c) {
  agentd_page *gone;
  pthread_mutex_lock(&c->mutex);
  gone = release_locked(c);
  pthread_mutex_unlock(&c->mutex);
  agentd_pages_free(gone);
}

/* A database that grew has its last page in the delta, so that the file gets its length.
** SQLite leaves it out if it spilled beyond and then took the rest back. */
static int stage_end(agentd_capture *c) {
  agentd_staging *s = &c->staging;
  agentd_page *p;
  if (s->pages <= c->pages || (s->count > 0 && s->page[s->count - 1]->no == s->pages)) return RC_OK;
  p = stage(s, s->count, s->pages);
  if (!p) return RC_IOERR_NOMEM;
  memset(p->data, 0, PAGE_BYTES);
  return RC_OK;
}

/* Makes sure that publish cannot fail. */
static int reserve(agentd_capture *c) {
  int room;
  if (c->staging.pages >= c->pages) return RC_OK;
  pthread_mutex_lock(&c->mutex);
  room = agentd_overlay_reserve_cut(&c->overlay);
  pthread_mutex_unlock(&c->mutex);
  return room ? RC_OK : RC_IOERR_NOMEM;
}

/* Moves the staged pages into the overlay as a new commit. */
static void publish(agentd_capture *c) {
  agentd_staging *s = &c->staging;
  agentd_page *gone, *cut, *old;
  uint32_t i;
  pthread_mutex_lock(&c->mutex);
  gone = release_locked(c);
  c->seq++;
  cut = s->pages < c->pages ? agentd_overlay_cut(&c->overlay, c->seq, s->pages) : 0;
  for (i = 0; i < s->count; i++) {
    s->page[i]->seq = c->seq;
    old = agentd_overlay_put(&c->overlay, s->page[i]);
    if (old) {
      old->chain = gone;
      gone = old;
    }
  }
  c->pending = agentd_overlay_bytes(&c->overlay, c->applied);
  pthread_mutex_unlock(&c->mutex);
  agentd_pages_free(gone);
  agentd_pages_free(cut);
  s->count = 0;
  c->pages = s->pages;
  if (c->pages < c->in_file) c->in_file = c->pages;
  c->delta.waits = 1;
}

/* SQLite is past its own point of no return, with its journal gone: on failure it
** drops its cache, and finds the state before the transaction here. */
int agentd_capture_commit(agentd_capture *c) {
  agentd_staging *s = &c->staging;
  int rc;
  c->finals++;
  if (s->lost) return RC_IOERR_WRITE;
  if (s->count == 0 && s->pages == c->pages) return RC_OK; /* a delta may wait: leave it alone */
  rc = stage_end(c);
  if (rc == RC_OK) rc = encode(c);
  if (rc == RC_OK) rc = reserve(c);
  if (rc == RC_OK && (s->count > 0 || s->pages != c->pages)) publish(c);
  else agentd_capture_release(c);
  if (!c->delta.waits) agentd_capture_taken(c); /* there is none */
  if (rc != RC_OK) return lose(c, rc);
  agentd_capture_discard(c);
  return RC_OK;
}

void agentd_capture_taken(agentd_capture *c) {
  agentd_delta *d = &c->delta;
  d->waits = 0;
  d->size = 0;
  if (d->cap > DELTA_KEEP) {
    free(d->data);
    d->data = 0;
    d->cap = 0;
  }
}

/* ---- Other threads ---- */

static agentd_page *to_limbo_locked(agentd_capture *c, agentd_page *list) {
  agentd_page **end = &c->limbo;
  while (*end) end = &(*end)->chain;
  *end = list;
  return 0;
}

/* When it returns, no descriptor but fd is in use. */
void agentd_capture_applied(agentd_capture *c, uint64_t seq, int fd) {
  agentd_page *gone = 0;
  pthread_mutex_lock(&c->mutex);
  if (seq > c->seq) seq = c->seq; /* what was not committed cannot be applied */
  if (seq >= c->applied) {
    c->applied = seq;
    gone = agentd_overlay_applied(&c->overlay, seq, KEEP_PAGES);
    c->pending = agentd_overlay_bytes(&c->overlay, seq);
    if (c->encoding) gone = to_limbo_locked(c, gone);
    while (c->fd != fd && c->reading) pthread_cond_wait(&c->idle, &c->mutex);
    c->fd = fd;
  }
  pthread_mutex_unlock(&c->mutex);
  agentd_pages_free(gone);
}

int64_t agentd_capture_pending(agentd_capture *c) {
  int64_t n;
  pthread_mutex_lock(&c->mutex);
  n = c->pending;
  pthread_mutex_unlock(&c->mutex);
  return n;
}
