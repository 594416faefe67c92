/* How much memory this process may still take: what the kernel says is available, and the limits of its cgroups. */
#ifndef SG_BASE_MEMAVAIL_H
#define SG_BASE_MEMAVAIL_H

#include <stdint.h>

/* Bytes; UINT64_MAX when nothing is known. `root` is put before every path read ("" for the real ones; tests give a folder).
 * Sources: /proc/meminfo (MemAvailable + SwapFree); /proc/self/cgroup with memory.max and memory.current (cgroup v2), or
 * memory.limit_in_bytes and memory.usage_in_bytes (v1), the page cache that a cgroup holds not counted as used. */
uint64_t sg_mem_available(const char *root);

/* Resident bytes of this process now; 0 when unknown. */
uint64_t sg_mem_resident(void);

#endif
