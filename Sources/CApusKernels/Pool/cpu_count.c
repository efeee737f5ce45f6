#define _GNU_SOURCE
#include "cpu_count.h"

#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* Reads "quota period" or "max period" (version 2); 0 when there is no limit. */
static double quota_v2(const char *path) {
    FILE *f = fopen(path, "r");
    if (!f) return 0;
    double quota = 0, period = 0;
    int got = fscanf(f, "%lf %lf", &quota, &period);
    fclose(f);
    return got == 2 && period > 0 ? quota / period : 0;
}

static double number_in(const char *path) {
    FILE *f = fopen(path, "r");
    if (!f) return 0;
    double value = 0;
    int got = fscanf(f, "%lf", &value);
    fclose(f);
    return got == 1 ? value : 0;
}

static double smaller(double a, double b) { return a <= 0 ? b : b <= 0 ? a : a < b ? a : b; }

static double group_quota(void) {
    double limit = quota_v2("/sys/fs/cgroup/cpu.max");
    double quota = number_in("/sys/fs/cgroup/cpu/cpu.cfs_quota_us");
    double period = number_in("/sys/fs/cgroup/cpu/cpu.cfs_period_us");
    if (quota > 0 && period > 0) limit = smaller(limit, quota / period);
    FILE *f = fopen("/proc/self/cgroup", "r");
    if (!f) return limit;
    char line[1024];
    while (fgets(line, sizeof line, f)) {
        if (strncmp(line, "0::/", 4) != 0) continue;
        line[strcspn(line, "\n")] = 0;
        char path[1200];
        snprintf(path, sizeof path, "/sys/fs/cgroup%s/cpu.max", line + 3);
        limit = smaller(limit, quota_v2(path));
    }
    fclose(f);
    return limit;
}

int apus_usable_cpus(void) {
    int count = 0;
#if defined(__linux__)
    cpu_set_t set;
    CPU_ZERO(&set);
    if (sched_getaffinity(0, sizeof set, &set) == 0) count = CPU_COUNT(&set);
#endif
    if (count < 1) count = (int)sysconf(_SC_NPROCESSORS_ONLN);
    double quota = group_quota();
    if (quota > 0 && quota < count) count = (int)(quota + 0.999);
    return count < 1 ? 1 : count;
}
