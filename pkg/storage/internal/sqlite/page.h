/*
** Pages of an agent's file: their size, their checksum, and how a changed page is
** written into a delta. Pure functions.
*/
#ifndef AGENTD_PAGE_H
#define AGENTD_PAGE_H

#include <stddef.h>
#include <stdint.h>

enum {
  PAGE_BYTES = 4096,
  PAGE_RESERVED = 8, /* at the end: checksum (u32, little-endian) and four zeros */
  PAGE_BODY = PAGE_BYTES - PAGE_RESERVED,
  DELTA_ENTRY_MAX = 6 + PAGE_BYTES
};

void agentd_checksum_initialize(void);

/* CRC32C of the page number (u32, little-endian) and the first PAGE_BODY bytes. */
uint32_t agentd_checksum(uint32_t no, const unsigned char *page);
/* The same without the processor's own instruction, for tests. */
uint32_t agentd_checksum_plain(uint32_t no, const unsigned char *page);

/* Whether the page's trailer fits it. A page of zeros was never written and is good. */
int agentd_page_good(uint32_t no, const unsigned char *page);

/* Writes the entry of a page that was `old` and is now `page` to out (of at least
** DELTA_ENTRY_MAX bytes), after setting the page's trailer. Returns the entry's
** size; 0 if the page did not change. The format is that of record.Delta. */
size_t agentd_delta_entry(unsigned char *out, uint32_t no, unsigned char *page, const unsigned char *old);

#endif
