#include "page.h"

#include <string.h>

#if defined(__x86_64__)
#include <nmmintrin.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <arm_acle.h>
#include <sys/auxv.h>
#endif

/*
** CRC32C over a page. The processor's instruction takes three cycles but can start
** one each cycle, so the page is cut into three equal stretches that are summed side
** by side and joined at the end.
*/

enum {
  POLYNOMIAL = 0x82F63B78, /* Castagnoli, bits reversed */
  STRETCH_WORDS = 170,     /* 3 * 170 words of 8 bytes, and one left over */
  STRETCH_BYTES = STRETCH_WORDS * 8
};
typedef char body_is_three_stretches_and_a_word[PAGE_BODY == 3 * STRETCH_BYTES + 8 ? 1 : -1];

/* Written by agentd_checksum_initialize only. */
static uint32_t table[8][256];      /* of one byte, followed by 0..7 zeros */
static uint32_t skip_table[4][256]; /* a sum's byte k, followed by STRETCH_BYTES zeros */
static uint32_t (*checksum)(uint32_t no, const unsigned char *page) = agentd_checksum_plain;

static uint64_t word(const unsigned char *p) {
  uint64_t w;
  memcpy(&w, p, sizeof w);
  return w;
}

static uint32_t step(uint32_t crc, const unsigned char *p, size_t n) {
  for (; n >= 8; n -= 8, p += 8) {
    crc ^= (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
    crc = table[7][crc & 255] ^ table[6][crc >> 8 & 255] ^ table[5][crc >> 16 & 255] ^ table[4][crc >> 24] ^
          table[3][p[4]] ^ table[2][p[5]] ^ table[1][p[6]] ^ table[0][p[7]];
  }
  for (; n > 0; n--, p++) crc = table[0][(crc ^ *p) & 255] ^ crc >> 8;
  return crc;
}

uint32_t agentd_checksum_plain(uint32_t no, const unsigned char *page) {
  unsigned char head[4] = {(unsigned char)no, (unsigned char)(no >> 8), (unsigned char)(no >> 16), (unsigned char)(no >> 24)};
  return ~step(step(~(uint32_t)0, head, sizeof head), page, PAGE_BODY);
}

static uint32_t skip(uint32_t crc) {
  return skip_table[0][crc & 255] ^ skip_table[1][crc >> 8 & 255] ^ skip_table[2][crc >> 16 & 255] ^ skip_table[3][crc >> 24];
}

/* The instruction's name differs between processors, the sum does not. */
#define SUM_PAGE(FIRST, NEXT)                                            \
  const unsigned char *p = page;                                        \
  uint32_t a = FIRST(~(uint32_t)0, no), b = 0, c = 0;                    \
  int i;                                                                 \
  for (i = 0; i < STRETCH_WORDS; i++, p += 8) {                          \
    a = (uint32_t)NEXT(a, word(p));                                      \
    b = (uint32_t)NEXT(b, word(p + STRETCH_BYTES));                      \
    c = (uint32_t)NEXT(c, word(p + 2 * STRETCH_BYTES));                  \
  }                                                                      \
  return ~(uint32_t)NEXT(skip(skip(a) ^ b) ^ c, word(page + 3 * STRETCH_BYTES));

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) static uint32_t fast(uint32_t no, const unsigned char *page) {
  SUM_PAGE(_mm_crc32_u32, _mm_crc32_u64)
}
static int has_fast(void) {
  __builtin_cpu_init();
  return __builtin_cpu_supports("sse4.2");
}
#elif defined(__aarch64__) && defined(__linux__) && defined(__AARCH64EL__)
__attribute__((target("+crc"))) static uint32_t fast(uint32_t no, const unsigned char *page) {
  SUM_PAGE(__crc32cw, __crc32cd)
}
static int has_fast(void) { return (getauxval(AT_HWCAP) & 1 << 7 /* CRC32 */) != 0; }
#else
static uint32_t fast(uint32_t no, const unsigned char *page) { return agentd_checksum_plain(no, page); }
static int has_fast(void) { return 0; }
#endif

void agentd_checksum_initialize(void) {
  static const unsigned char zeros[STRETCH_BYTES];
  uint32_t bit[32];
  int i, k;
  for (i = 0; i < 256; i++) {
    uint32_t crc = (uint32_t)i;
    for (k = 0; k < 8; k++) crc = crc >> 1 ^ (crc & 1 ? POLYNOMIAL : 0);
    table[0][i] = crc;
  }
  for (k = 1; k < 8; k++)
    for (i = 0; i < 256; i++) table[k][i] = table[k - 1][i] >> 8 ^ table[0][table[k - 1][i] & 255];
  for (i = 0; i < 32; i++) bit[i] = step((uint32_t)1 << i, zeros, sizeof zeros);
  for (k = 0; k < 4; k++)
    for (i = 0; i < 256; i++) {
      int b;
      uint32_t crc = 0;
      for (b = 0; b < 8; b++)
        if (i >> b & 1) crc ^= bit[8 * k + b];
      skip_table[k][i] = crc;
    }
  if (has_fast()) checksum = fast;
}

uint32_t agentd_checksum(uint32_t no, const unsigned char *page) { return checksum(no, page); }

static uint32_t stored(const unsigned char *page) {
  const unsigned char *p = page + PAGE_BODY;
  return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

int agentd_page_good(uint32_t no, const unsigned char *page) {
  int i;
  if (stored(page) == checksum(no, page)) {
    const unsigned char *rest = page + PAGE_BODY + 4;
    return (rest[0] | rest[1] | rest[2] | rest[3]) == 0;
  }
  for (i = 0; i < PAGE_BYTES; i += 8)
    if (word(page + i) != 0) return 0;
  return 1;
}
