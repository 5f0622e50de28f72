#include "page.h"

#include <string.h>

/*
** The entry of one page in a delta: runs of changed bytes, or the whole page where
** the runs would take as much. A run costs four bytes beside its own, so changes with
** no more than four equal bytes between them share one. That keeps runs below the
** format's 1024: a shorter list than 4096 / 5.
*/

enum { RUN_HEADER = 4, WHOLE_PAGE = 0xFFFF, WORDS = PAGE_BODY / 8 };

typedef struct run_list {
  unsigned char *out; /* where the next run goes */
  unsigned char *end; /* of what runs may take; beyond it the whole page is shorter */
  const unsigned char *page;
  unsigned first, last; /* of the run that grows: bytes first to last-1; empty at 0, 0 */
  unsigned count;
} run_list;

static void put16(unsigned char *p, unsigned v) {
  p[0] = (unsigned char)v;
  p[1] = (unsigned char)(v >> 8);
}

static void put32(unsigned char *p, uint32_t v) {
  put16(p, v & 0xFFFF);
  put16(p + 2, v >> 16);
}

static uint64_t word(const unsigned char *p) {
  uint64_t w;
  memcpy(&w, p, sizeof w);
  return w;
}

/* 0 if the runs have become too long. */
static int end_run(run_list *l) {
  size_t n = l->last - l->first;
  if (n == 0) return 1;
  if ((size_t)(l->end - l->out) < RUN_HEADER + n) return 0;
  put16(l->out, l->first);
  put16(l->out + 2, (unsigned)n);
  memcpy(l->out + RUN_HEADER, l->page + l->first, n);
  l->out += RUN_HEADER + n;
  l->count++;
  return 1;
}

/* Notes that the word at byte `at` differs by the bits of x. Up to six equal bytes
** inside it are not worth a look. */
static int note(run_list *l, unsigned at, uint64_t x) {
  unsigned first = at, last = at + 8;
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
  first += (unsigned)__builtin_ctzll(x) / 8;
  last -= (unsigned)__builtin_clzll(x) / 8;
#else
  first += (unsigned)__builtin_clzll(x) / 8;
  last -= (unsigned)__builtin_ctzll(x) / 8;
#endif
  if (l->last == 0 || first - l->last > RUN_HEADER) {
    if (!end_run(l)) return 0;
    l->first = first;
  }
  l->last = last;
  return 1;
}

static int compare(run_list *l, const unsigned char *old, unsigned from, unsigned to) {
  unsigned i;
  for (i = from; i < to; i++) {
    uint64_t x = word(l->page + 8 * i) ^ word(old + 8 * i);
    if (x != 0 && !note(l, 8 * i, x)) return 0;
  }
  return 1;
}

typedef uint64_t lanes __attribute__((vector_size(16)));

static lanes load(const unsigned char *p) {
  lanes v;
  memcpy(&v, p, sizeof v);
  return v;
}

/* Most words are equal: look at eight at a time. */
static int compare_body(run_list *l, const unsigned char *old) {
  unsigned i;
  for (i = 0; i + 8 <= WORDS; i += 8) {
    const unsigned char *p = l->page + 8 * i, *q = old + 8 * i;
    lanes x = (load(p) ^ load(q)) | (load(p + 16) ^ load(q + 16)) | (load(p + 32) ^ load(q + 32)) | (load(p + 48) ^ load(q + 48));
    if ((x[0] | x[1]) != 0 && !compare(l, old, i, i + 8)) return 0;
  }
  return compare(l, old, i, WORDS);
}

static int has_sum(const unsigned char *page) {
  const unsigned char *p = page + PAGE_BODY;
  return (p[0] | p[1] | p[2] | p[3]) != 0;
}

static void seal(uint32_t no, unsigned char *page) {
  put32(page + PAGE_BODY, agentd_checksum(no, page));
  put32(page + PAGE_BODY + 4, 0);
}

size_t agentd_delta_entry(unsigned char *out, uint32_t no, unsigned char *page, const unsigned char *old) {
  run_list l = {out + 6, out + DELTA_ENTRY_MAX - 1, page, 0, 0, 0};
  int fits = compare_body(&l, old);
  /* An old page without a sum was never written. Its successor gets one even if all
  ** else stays zero, so that the last page of a database is always in a delta. */
  if (fits && l.last == 0 && has_sum(old)) return 0;
  seal(no, page);
  fits = fits && compare(&l, old, WORDS, WORDS + 1);
  if (!has_sum(old) && l.last > PAGE_BODY) l.last = PAGE_BYTES; /* a new page is there to its last byte */
  fits = fits && end_run(&l);
  if (fits && l.count == 0) return 0;
  put32(out, no);
  if (fits) {
    put16(out + 4, l.count);
    return (size_t)(l.out - out);
  }
  put16(out + 4, WHOLE_PAGE);
  memcpy(out + 6, page, PAGE_BYTES);
  return DELTA_ENTRY_MAX;
}
