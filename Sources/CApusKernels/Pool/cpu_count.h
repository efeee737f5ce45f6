#ifndef APUS_CPU_COUNT_H
#define APUS_CPU_COUNT_H

/* CPUs this process may use: its affinity mask, cut by the quota of its control group, rounded up; at least 1. */
int apus_usable_cpus(void);

#endif
