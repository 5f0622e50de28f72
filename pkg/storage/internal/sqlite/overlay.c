#include "overlay.h"

#include <stdlib.h>
#include <string.h>

enum { MIN_CUTS = 4 };

static __thread int fail_in; /* allocations until one fails */

int agentd_fail_allocation(int nth) {
  int left = fail_in;
  fail_in = nth;
  return left;
}

void *agentd_reallocate(void *p, size_t n) {
  if (fail_in > 0 && --fail_in == 0) return 0;
  return realloc(p, n);
}

/* Neighbouring pages go to different buckets. */
static agentd_page **slot(const agentd_overlay *o, uint32_t no) { return &o->bucket[no & (o->buckets - 1)]; }

void agentd_pages_free(agentd_page *list) {
  while (list) {
    agentd_page *p = list;
    list = p->chain;
    free(p);
  }
}

agentd_page *agentd_overlay_find(const agentd_overlay *o, uint32_t no) {
  agentd_page *p;
  for (p = *slot(o, no); p && p->no != no; p = p->chain) {
  }
  return p;
}

void agentd_overlay_initialize(agentd_overlay *o) {
  memset(o, 0, sizeof *o);
  o->bucket = o->few;
  o->buckets = OVERLAY_MIN_BUCKETS;
}

/* Without memory the table stays as it is, and is merely slower or larger. */
static void resize(agentd_overlay *o, uint32_t n) {
  agentd_page **bucket = o->few, *p;
  if (n > OVERLAY_MIN_BUCKETS) bucket = calloc(n, sizeof *bucket);
  else memset(o->few, 0, sizeof o->few);
  if (!bucket) return;
  if (o->bucket != o->few) free(o->bucket);
  o->bucket = bucket;
  o->buckets = n;
  for (p = o->oldest; p; p = p->newer) {
    p->chain = *slot(o, p->no);
    *slot(o, p->no) = p;
  }
}

static void take_out(agentd_overlay *o, agentd_page *p) {
  agentd_page **at = slot(o, p->no);
  while (*at != p) at = &(*at)->chain;
  *at = p->chain;
  if (p->older) p->older->newer = p->newer;
  else o->oldest = p->newer;
  if (p->newer) p->newer->older = p->older;
  else o->newest = p->older;
  o->count--;
}

static void shrink(agentd_overlay *o) {
  uint32_t n = o->buckets;
  if (o->count >= n / 8) return;
  while (n > OVERLAY_MIN_BUCKETS && o->count < n / 4) n /= 2;
  if (n < o->buckets) resize(o, n);
}

agentd_page *agentd_overlay_put(agentd_overlay *o, agentd_page *p) {
  agentd_page *old = agentd_overlay_find(o, p->no);
  if (old) take_out(o, old);
  if (o->count >= o->buckets) resize(o, 2 * o->buckets);
  p->chain = *slot(o, p->no);
  *slot(o, p->no) = p;
  p->newer = 0;
  p->older = o->newest;
  if (o->newest) o->newest->newer = p;
  else o->oldest = p;
  o->newest = p;
  o->count++;
  return old;
}

agentd_page *agentd_overlay_applied(agentd_overlay *o, uint64_t seq, uint32_t keep) {
  agentd_page *list = 0;
  uint32_t i, n = 0;
  while (o->count > keep && o->oldest && o->oldest->seq <= seq) {
    agentd_page *p = o->oldest;
    take_out(o, p);
    p->chain = list;
    list = p;
  }
  if (list) shrink(o);
  while (n < o->cuts && o->cut[n].seq <= seq) n++;
  if (n > 0) {
    for (i = n; i < o->cuts; i++) o->cut[i - n] = o->cut[i];
    o->cuts -= n;
  }
  return list;
}

int agentd_overlay_reserve_cut(agentd_overlay *o) {
  uint32_t cap = o->cut_cap ? 2 * o->cut_cap : MIN_CUTS;
  agentd_cut *cut;
  if (o->cuts < o->cut_cap) return 1;
  cut = agentd_reallocate(o->cut, cap * sizeof *cut);
  if (!cut) return 0;
  o->cut = cut;
  o->cut_cap = cap;
  return 1;
}

agentd_page *agentd_overlay_cut(agentd_overlay *o, uint64_t seq, uint32_t pages) {
  agentd_page *list = 0, *p = o->oldest;
  while (p) {
    agentd_page *next = p->newer;
    if (p->no > pages) {
      take_out(o, p);
      p->chain = list;
      list = p;
    }
    p = next;
  }
  if (list) shrink(o);
  while (o->cuts > 0 && o->cut[o->cuts - 1].pages >= pages) o->cuts--;
  o->cut[o->cuts].seq = seq;
  o->cut[o->cuts].pages = pages;
  o->cuts++;
  return list;
}

int agentd_overlay_hides(const agentd_overlay *o, uint32_t no) { return o->cuts > 0 && no > o->cut[0].pages; }

int64_t agentd_overlay_bytes(const agentd_overlay *o, uint64_t applied) {
  uint32_t n = o->count;
  const agentd_page *p;
  for (p = o->oldest; p && p->seq <= applied; p = p->newer) n--;
  return (int64_t)n * (int64_t)sizeof(agentd_page);
}

void agentd_overlay_free(agentd_overlay *o) {
  agentd_pages_free(agentd_overlay_applied(o, UINT64_MAX, 0));
  if (o->bucket != o->few) free(o->bucket);
  free(o->cut);
  agentd_overlay_initialize(o);
}
