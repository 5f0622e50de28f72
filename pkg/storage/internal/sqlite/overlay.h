/*
** Pages that SQLite has committed and the agent's file does not hold yet, and the
** truncations that the file has not seen yet. The newest few pages may stay when the file
** holds them too: the next transaction will likely change them again. No locks:
** capture.c has one.
*/
#ifndef AGENTD_OVERLAY_H
#define AGENTD_OVERLAY_H

#include "page.h"

enum { OVERLAY_MIN_BUCKETS = 8 };

typedef struct agentd_page {
  struct agentd_page *chain;         /* in the overlay: the next in its bucket; out of it: of a list */
  struct agentd_page *older, *newer; /* in the overlay: in the order of seq; staged: older is what the commit replaces */
  uint64_t seq;                      /* of the commit that wrote it last */
  uint32_t no;
  unsigned char data[PAGE_BYTES];
} agentd_page;

/* A commit that cut the database to `pages` pages. */
typedef struct agentd_cut {
  uint64_t seq;
  uint32_t pages;
} agentd_cut;

typedef struct agentd_overlay {
  agentd_page **bucket;
  uint32_t buckets; /* a power of two */
  uint32_t count;
  agentd_page *few[OVERLAY_MIN_BUCKETS]; /* what bucket points to while there are few pages */
  agentd_page *oldest, *newest;
  /* Cuts that the file has not seen, with rising seq and rising pages: a cut that goes
  ** as deep as an earlier one hides what that hid, and for longer. */
  agentd_cut *cut;
  uint32_t cuts, cut_cap;
} agentd_overlay;

void agentd_overlay_initialize(agentd_overlay *o);
agentd_page *agentd_overlay_find(const agentd_overlay *o, uint32_t no);
/* Puts a page, which must be the newest, in the place of an older one, which is
** returned. Cannot fail. */
agentd_page *agentd_overlay_put(agentd_overlay *o, agentd_page *p);
/* Forgets cuts of commits up to seq and takes out their pages, except for some of the
** newest, as long as there are no more than `keep` pages; returns them as a list. */
agentd_page *agentd_overlay_applied(agentd_overlay *o, uint64_t seq, uint32_t keep);
/* Makes room for one more cut. 0: no memory. */
int agentd_overlay_reserve_cut(agentd_overlay *o);
/* Notes a cut, for which there is room; takes out and returns the pages beyond it. */
agentd_page *agentd_overlay_cut(agentd_overlay *o, uint64_t seq, uint32_t pages);
/* Whether the file may still hold what page `no` was before a cut. */
int agentd_overlay_hides(const agentd_overlay *o, uint32_t no);
/* Bytes of the pages of commits after `applied`. Takes as many steps as
** agentd_overlay_applied kept pages. */
int64_t agentd_overlay_bytes(const agentd_overlay *o, uint64_t applied);
void agentd_overlay_free(agentd_overlay *o);

/* As realloc. agentd_fail_allocation fails the nth call from now on, on this thread; 0
** for none; returns what was left of the count before. For tests. */
void *agentd_reallocate(void *p, size_t n);
int agentd_fail_allocation(int nth);

/* Frees a list linked by chain. */
void agentd_pages_free(agentd_page *list);

#endif
