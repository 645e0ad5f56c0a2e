#define _GNU_SOURCE
#include "copy.h"
#include "clock.h"
#include "payload.h"

#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { BURST = 64, HEADER = 12, LINE = 64, AHEAD = 1024 };

/* One way between the two ends. Each counter has one writer, and lines of its own. */
struct way {
	_Alignas(128) uint64_t sent;  /* frames that the first core has filled */
	_Alignas(128) uint64_t moved; /* frames that the second core has copied */
	_Alignas(128) uint64_t seen;  /* frames that the first core has read: their room is free again */
	_Alignas(128) char *from;
	char *to;
	uint32_t stride;
};

static struct copy_options option;
static struct way way[2];
static bool stop;
static uint64_t copier_delay[2];
static int measuring; /* 1 while the frames count */
static volatile uint64_t sink;

static char *frame(char *base, const struct way *w, uint64_t n) { return base + (n & (option.ring - 1)) * w->stride; }

static uint64_t at_most(uint64_t a, uint64_t b) { return a < b ? a : b; }

static void ask_for(const char *b, bool write)
{
	uint32_t size = option.size + HEADER < AHEAD ? option.size + HEADER : AHEAD;
	for (uint32_t i = 0; i < size; i += LINE) {
		if (write)
			__builtin_prefetch(b + i, 1);
		else
			__builtin_prefetch(b + i, 0);
	}
}

static void copy_way(struct way *w)
{
	uint64_t moved = w->moved;
	uint64_t ready = __atomic_load_n(&w->sent, __ATOMIC_ACQUIRE) - moved, room = option.ring - (moved - __atomic_load_n(&w->seen, __ATOMIC_ACQUIRE));
	uint64_t n = at_most(at_most(ready, room), BURST), ahead = 2 + 768 / option.size;
	for (uint64_t i = 0; i < n; i++) {
		if (i + ahead < n) {
			ask_for(frame(w->from, w, moved + i + ahead), false);
			ask_for(frame(w->to, w, moved + i + ahead), true);
		}
		memcpy(frame(w->to, w, moved + i), frame(w->from, w, moved + i), option.size + HEADER);
	}
	if (n)
		__atomic_store_n(&w->moved, moved + n, __ATOMIC_RELEASE);
}

static void *copier(void *unused)
{
	(void)unused;
	cpu_set_t set;
	CPU_ZERO(&set);
	CPU_SET(option.core, &set);
	if (sched_setaffinity(0, sizeof set, &set) < 0) {
		perror("generator: --copy");
		exit(1);
	}
	for (int phase = 0; !__atomic_load_n(&stop, __ATOMIC_RELAXED);) {
		if (__atomic_load_n(&measuring, __ATOMIC_RELAXED) != phase)
			copier_delay[phase++] = run_delay();
		for (int i = 0; i < (option.both ? 2 : 1); i++)
			copy_way(&way[i]);
	}
	copier_delay[1] = run_delay();
	return NULL;
}

/* What the two guests do at their ends of one way: read what has come, fill what is free. Gives the frames that have come. */
static uint64_t serve(struct way *w)
{
	uint64_t seen = w->seen, moved = __atomic_load_n(&w->moved, __ATOMIC_ACQUIRE), sent = w->sent, ahead = 2 + 768 / option.size;
	uint64_t come = at_most(moved - seen, BURST), room = at_most(option.ring - (sent - moved), BURST);
	for (uint64_t i = 0; option.touch && i < come; i++) {
		if (i + ahead < come)
			ask_for(frame(w->to, w, seen + i + ahead), false);
		sink += read_bytes(frame(w->to, w, seen + i) + HEADER, option.size);
	}
	if (come)
		__atomic_store_n(&w->seen, seen + come, __ATOMIC_RELEASE);
	for (uint64_t i = 0; option.touch && i < room; i++) {
		if (i + ahead < room)
			ask_for(frame(w->from, w, sent + i + ahead), true);
		write_bytes(frame(w->from, w, sent + i) + HEADER, (uint8_t)sent, option.size);
	}
	if (room)
		__atomic_store_n(&w->sent, sent + room, __ATOMIC_RELEASE);
	return come;
}

static void make_way(struct way *w)
{
	w->stride = (option.size + HEADER + 255) / 128 * 128 + LINE; /* an odd number of lines, as the guests' buffers have */
	size_t bytes = (size_t)w->stride * option.ring;
	char *room = mmap(NULL, 2 * bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (room == MAP_FAILED) {
		perror("generator: memory");
		exit(1);
	}
	w->from = room;
	w->to = room + bytes;
}

struct copy_result copy_run(const struct copy_options *o)
{
	option = *o;
	make_way(&way[0]);
	make_way(&way[1]);
	pthread_t thread;
	if (pthread_create(&thread, NULL, copier, NULL) != 0) {
		perror("generator: thread");
		exit(1);
	}
	struct copy_result r = {0};
	uint64_t from = now() + (uint64_t)(o->warmup * 1e9), end = from + (uint64_t)(o->seconds * 1e9), begun = 0, idle = 0, all = 0, last = ticks();
	for (uint64_t round = 0;; round++) {
		if ((round & 255) == 0) {
			uint64_t t = now();
			if (!begun && t >= from) {
				begun = t;
				r.frames = idle = all = 0;
				__atomic_store_n(&measuring, 1, __ATOMIC_RELAXED);
			}
			if (begun && t >= end) {
				r.seconds = (double)(t - begun) / 1e9;
				break;
			}
		}
		uint64_t work = 0;
		for (int i = 0; i < (o->both ? 2 : 1); i++)
			work += serve(&way[i]);
		r.frames += work;
		uint64_t t = ticks();
		all += t - last;
		if (!work)
			idle += t - last;
		last = t;
	}
	__atomic_store_n(&stop, true, __ATOMIC_RELAXED);
	pthread_join(thread, NULL);
	r.idle = (double)idle / (double)all;
	r.delay = copier_delay[1] - copier_delay[0];
	return r;
}
