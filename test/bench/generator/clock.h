/* Time, and the time that a thread did not get. */
#ifndef CLOCK_H
#define CLOCK_H

#include <stdint.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static inline uint64_t now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

/* A counter that costs little to read. */
static inline uint64_t ticks(void)
{
#if defined(__x86_64__)
	return __builtin_ia32_rdtsc();
#elif defined(__aarch64__)
	uint64_t t;
	__asm__ volatile("mrs %0, cntvct_el0" : "=r"(t));
	return t;
#else
	return now();
#endif
}

/* Nanoseconds that this thread waited for its processor (schedstat in proc(5)). */
static inline uint64_t run_delay(void)
{
	char name[64];
	unsigned long long on = 0, delay = 0;
	snprintf(name, sizeof name, "/proc/self/task/%ld/schedstat", syscall(SYS_gettid));
	FILE *f = fopen(name, "r");
	if (!f || fscanf(f, "%llu %llu", &on, &delay) != 2)
		delay = 0;
	if (f)
		fclose(f);
	return delay;
}

#endif
