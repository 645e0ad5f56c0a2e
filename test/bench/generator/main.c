/* The traffic generator of vhostkit's comparison: the driver side of 2 to 64 guests on one thread.
 *
 * w2         one way, payload untouched: port 0 sends to port 1, 2 to 3, and so on. The switch is the limit.
 * w3         both ways, payload written by the sender and read by the receiver
 * verify     as w3, with a sequence number and a hash in each frame; slow, and fails on any difference
 * latency    one frame at a time, port 0 to port 1
 * rate       port 0 to port 1 at --rate frames a second, latency of each
 * interrupt  as w2, but the thread sleeps until the switch calls, and kicks it
 * tap        as w2, through two tap interfaces instead of sockets
 * copy       as w3, and copy-w2 as w2, without any switch: a second thread, on --copy-core, does nothing but memcpy. No switch that copies is faster.
 *
 * It prints one line of JSON. */
#define _GNU_SOURCE
#include "clock.h"
#include "copy.h"
#include "payload.h"
#include "port.h"
#include "tap.h"

#include <errno.h>
#include <getopt.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The kinds of work are parameters of the same loops; each gets loops of its own, without calls through pointers. */
#define ALWAYS_INLINE inline __attribute__((always_inline))

enum { MAX_PORTS = 64, BURST = 64, ETHER = 14, MAX_MAP = 1 << 16 };

static struct {
	const char *mode;
	uint32_t ports, size, ring, addresses, core;
	uint32_t copy_core;
	bool packed, in_order, hugepages;
	double seconds, warmup, rate;
	const char *path[MAX_PORTS];
} option = {.mode = "w2", .size = 64, .ring = 256, .addresses = 1, .seconds = 2, .warmup = 0.5, .rate = 1e6, .core = ~0u, .copy_core = 1};

static struct port port[MAX_PORTS];
static volatile uint64_t sink;

static void put_address(char *at, uint32_t p, uint32_t n)
{
	const uint8_t a[6] = {2, 0, (uint8_t)(p >> 8), (uint8_t)p, (uint8_t)(n >> 8), (uint8_t)n};
	memcpy(at, a, 6);
}

/* Writes a frame from one of port p's addresses to one of port to's. */
static void write_frame(char *b, uint32_t p, uint32_t to, uint32_t n, uint32_t size)
{
	memset(b, 0, HEADER);
	b += HEADER;
	put_address(b, to, n * 7 % option.addresses);
	put_address(b + 6, p, n * 5 % option.addresses);
	b[12] = (char)0x88;
	b[13] = (char)0xb5;
	for (uint32_t i = ETHER; i < size; i++)
		b[i] = (char)(i + n);
}

static uint32_t peer(uint32_t p) { return p ^ 1; }

struct counters {
	uint64_t sent, received, bytes, polls, empty_tx, empty_rx, bad, idle, all; /* the last two in ticks: rounds that found nothing, and all */
};

static uint32_t free_id[MAX_PORTS][32768]; /* transmit buffers that are ours */
static uint32_t free_count[MAX_PORTS];

/* Takes back what was sent. */
static uint32_t reclaim(uint32_t p)
{
	struct queue *q = &port[p].queue[TX];
	uint32_t n = 0, len;
	for (uint32_t count = returned(q); count; count = q->packed ? returned(q) : count - 1) {
		free_id[p][free_count[p]++] = take(q, &len);
		n++;
	}
	return n;
}

/* Asks for the lines of a frame some way ahead of its use: the switch had them last, and waiting for each in turn would make the generator the
   limit. Lines far into a long frame are left to the processor. */
enum { AHEAD = 1024 };

static inline uint32_t frames_ahead(uint32_t size) { return 2 + 768 / size; }

static inline void ask_for(const char *b, uint32_t size, bool write)
{
	if (size > AHEAD)
		size = AHEAD;
	for (uint32_t i = 0; i < size; i += 64) {
		if (write)
			__builtin_prefetch(b + i, 1);
		else
			__builtin_prefetch(b + i, 0);
	}
	if (write)
		__builtin_prefetch(b + size - 1, 1);
	else
		__builtin_prefetch(b + size - 1, 0);
}

/* Takes frames out of a receive ring and offers the buffers again; see is called for each. */
typedef void (*see_frame)(uint32_t p, char *frame, uint32_t len, struct counters *c);

static ALWAYS_INLINE uint32_t receive(uint32_t p, see_frame see, struct counters *c)
{
	struct queue *q = &port[p].queue[RX];
	uint16_t id[BURST];
	uint32_t n = 0, len[BURST];
	for (uint32_t count = returned(q); count && n < BURST; count = q->packed ? returned(q) : count - 1) {
		id[n] = take(q, &len[n]);
		n++;
	}
	if (!n)
		return 0;
	uint32_t ahead = frames_ahead(option.size);
	if (see)
		for (uint32_t i = 0; i < ahead && i < n; i++)
			ask_for(buffer(q, id[i]), len[i], false);
	for (uint32_t i = 0; i < n; i++) {
		if (see) {
			if (i + ahead < n)
				ask_for(buffer(q, id[i + ahead]), len[i + ahead], false);
			see(p, buffer(q, id[i]) + HEADER, len[i] - HEADER, c);
		}
		offer(q, id[i], q->stride);
		c->bytes += len[i] - HEADER;
	}
	publish(q);
	c->received += n;
	return n;
}

/* Sends from all buffers that are ours, at most BURST; make writes each frame, if set. */
typedef void (*make_frame)(uint32_t p, char *b, struct counters *c);

static ALWAYS_INLINE uint32_t transmit(uint32_t p, make_frame make, struct counters *c)
{
	struct queue *q = &port[p].queue[TX];
	uint32_t n = free_count[p] < BURST ? free_count[p] : BURST;
	uint32_t *id = free_id[p] + free_count[p] - n, ahead = frames_ahead(option.size);
	if (make)
		for (uint32_t i = 0; i < ahead && i < n; i++)
			ask_for(buffer(q, id[i]), option.size + HEADER, true);
	for (uint32_t i = 0; i < n; i++) {
		if (make) {
			if (i + ahead < n)
				ask_for(buffer(q, id[i + ahead]), option.size + HEADER, true);
			make(p, buffer(q, id[i]), c);
		}
		offer(q, (uint16_t)id[i], option.size + HEADER);
	}
	free_count[p] -= n;
	if (n)
		publish(q);
	c->sent += n;
	return n;
}

static void wake_all(void)
{
	for (uint32_t p = 0; p < option.ports; p++) {
		kick(&port[p].queue[TX]);
		kick(&port[p].queue[RX]);
	}
}

/* Lets the switch learn every address: each port sends one frame from each, slowly, because switches bound how fast they learn. */
static void teach(void)
{
	struct counters none = {0};
	for (uint32_t n = 0; n < option.addresses; n++) {
		for (uint32_t p = 0; p < option.ports; p++) {
			reclaim(p);
			if (!free_count[p])
				continue;
			struct queue *q = &port[p].queue[TX];
			uint32_t id = free_id[p][--free_count[p]];
			write_frame(buffer(q, id), p, peer(p), 0, 64);
			put_address(buffer(q, id) + HEADER + 6, p, n);
			offer(q, (uint16_t)id, 64 + HEADER);
			publish(q);
			kick(q);
		}
		usleep(n % 32 == 31 ? 110000 : 200);
		for (uint32_t p = 0; p < option.ports; p++)
			while (receive(p, NULL, &none))
				kick(&port[p].queue[RX]);
	}
	for (uint64_t end = now() + 300000000; now() < end;) {
		for (uint32_t p = 0; p < option.ports; p++) {
			reclaim(p);
			if (receive(p, NULL, &none))
				kick(&port[p].queue[RX]);
		}
		usleep(100);
	}
}

static void fill(void)
{
	for (uint32_t p = 0; p < option.ports; p++)
		for (uint32_t i = 0; i < option.ring; i++)
			write_frame(buffer(&port[p].queue[TX], i), p, peer(p), i, option.size);
}

/* Payload written and read, as an application would. */
static ALWAYS_INLINE void make_payload(uint32_t p, char *b, struct counters *c)
{
	(void)p;
	write_bytes(b + HEADER + ETHER, (uint8_t)c->sent, option.size - ETHER);
}

static ALWAYS_INLINE void read_payload(uint32_t p, char *frame, uint32_t len, struct counters *c)
{
	(void)p, (void)c;
	sink += read_bytes(frame, len);
}

/* Frames that carry a sequence number and a hash of all that follows it. */
static uint32_t next_sent[MAX_PORTS], next_seen[MAX_PORTS];

static uint32_t hash(const char *b, uint32_t n)
{
	uint32_t h = 2166136261u;
	while (n--)
		h = (h ^ (uint8_t)*b++) * 16777619;
	return h;
}

enum { SEQUENCE = ETHER, HASH = ETHER + 4, CONTENT = ETHER + 8 };

static void make_verified(uint32_t p, char *b, struct counters *c)
{
	(void)c;
	uint32_t s = next_sent[p]++;
	char *f = b + HEADER;
	memcpy(f + SEQUENCE, &s, 4);
	for (uint32_t i = CONTENT; i < option.size; i++)
		f[i] = (char)(s * 31 + i * 7 + p);
	uint32_t h = hash(f + CONTENT, option.size - CONTENT) ^ s;
	memcpy(f + HASH, &h, 4);
}

static void check_verified(uint32_t p, char *f, uint32_t len, struct counters *c)
{
	uint32_t s, h;
	memcpy(&s, f + SEQUENCE, 4);
	memcpy(&h, f + HASH, 4);
	/* Frames may be lost where a receiver has no buffer; they may not change, come twice or out of order. */
	if (len != option.size || h != (hash(f + CONTENT, len - CONTENT) ^ s) || (int32_t)(s - next_seen[p]) < 0)
		c->bad++;
	next_seen[p] = s + 1;
}

struct result {
	struct counters c;
	double seconds;
	uint64_t delay;
};

static struct counters minus(struct counters a, struct counters b)
{
	struct counters d = {a.sent - b.sent, a.received - b.received, a.bytes - b.bytes, a.polls - b.polls, a.empty_tx - b.empty_tx,
			     a.empty_rx - b.empty_rx, a.bad - b.bad, a.idle - b.idle, a.all - b.all};
	return d;
}

/* Keeps all rings busy for warm-up and measurement. */
static ALWAYS_INLINE struct result run(bool both, make_frame make, see_frame see)
{
	struct counters c = {0}, begin = {0};
	struct result r = {.c = {0}};
	uint64_t start = now(), from = start + (uint64_t)(option.warmup * 1e9), end = from + (uint64_t)(option.seconds * 1e9), measured = 0, delay = 0;
	wake_all();
	uint64_t last = ticks();
	for (uint64_t round = 0;; round++) {
		if ((round & 255) == 0) {
			uint64_t t = now();
			if (!measured && t >= from) {
				measured = t;
				begin = c;
				delay = run_delay();
			}
			if (measured && t >= end) {
				r.seconds = (double)(t - measured) / 1e9;
				break;
			}
			if ((round & 0xfffff) == 0)
				wake_all(); /* a switch that sleeps although it was asked not to */
		}
		uint32_t work = 0;
		for (uint32_t p = 0; p < option.ports; p += 2) {
			for (uint32_t side = 0; side < (both ? 2u : 1u); side++) {
				uint32_t from_port = p + side, to = peer(from_port);
				uint32_t got = receive(to, see, &c);
				uint32_t back = reclaim(from_port);
				transmit(from_port, make, &c);
				c.polls++;
				c.empty_rx += got == 0;
				c.empty_tx += back == 0;
				work += got + back;
			}
		}
		uint64_t t = ticks();
		c.all += t - last;
		if (!work)
			c.idle += t - last;
		last = t;
	}
	r.delay = run_delay() - delay;
	r.c = minus(c, begin);
	return r;
}

static struct result run_w2(void) { return run(false, NULL, NULL); }
static struct result run_w3(void) { return run(true, make_payload, read_payload); }
static struct result run_verify(void) { return run(true, make_verified, check_verified); }

/* As run, one way, but sleeping until the switch calls. */
static struct result run_interrupts(void)
{
	struct counters c = {0}, begin = {0};
	struct result r = {.c = {0}};
	uint64_t start = now(), from = start + (uint64_t)(option.warmup * 1e9), end = from + (uint64_t)(option.seconds * 1e9), measured = 0, delay = 0;
	struct pollfd fds[MAX_PORTS];
	for (;;) {
		uint64_t t = now();
		if (!measured && t >= from) {
			measured = t;
			begin = c;
			delay = run_delay();
		}
		if (measured && t >= end) {
			r.seconds = (double)(t - measured) / 1e9;
			break;
		}
		uint32_t work = 0;
		for (uint32_t p = 0; p < option.ports; p += 2) {
			uint32_t got = receive(peer(p), NULL, &c);
			if (got)
				kick(&port[peer(p)].queue[RX]);
			reclaim(p);
			uint32_t sent = transmit(p, NULL, &c);
			if (sent)
				kick(&port[p].queue[TX]);
			work += got + sent;
			c.polls++;
			c.empty_rx += got == 0;
			c.empty_tx += sent == 0;
		}
		if (work)
			continue;
		uint32_t n = 0, ready = 0;
		for (uint32_t p = 0; p < option.ports; p += 2) {
			struct queue *tx = &port[p].queue[TX], *rx = &port[peer(p)].queue[RX];
			want_calls(tx, true);
			want_calls(rx, true);
			ready += returned(tx) + returned(rx);
			fds[n++] = (struct pollfd){tx->call, POLLIN, 0};
			fds[n++] = (struct pollfd){rx->call, POLLIN, 0};
		}
		/* All buffers are with the switch: if nothing comes for a second, somebody has not been woken. */
		if (!ready && poll(fds, n, 1000) == 0)
			c.bad++;
		for (uint32_t i = 0; i < n; i++) {
			uint64_t count;
			if (fds[i].revents & POLLIN && read(fds[i].fd, &count, 8) < 0 && errno != EAGAIN)
				exit(1);
		}
		for (uint32_t p = 0; p < option.ports; p += 2) {
			want_calls(&port[p].queue[TX], false);
			want_calls(&port[peer(p)].queue[RX], false);
		}
	}
	r.delay = run_delay() - delay;
	r.c = minus(c, begin);
	return r;
}

/* As run, one way, through the kernel: the two taps are the ends. */
static struct result run_taps(void)
{
	static char frame[HEADER + 9216], room[9216];
	struct counters c = {0}, begin = {0};
	struct result r = {.c = {0}};
	int from_fd = tap_open(option.path[0]), to = tap_open(option.path[1]);
	uint64_t start = now(), from = start + (uint64_t)(option.warmup * 1e9), end = from + (uint64_t)(option.seconds * 1e9), measured = 0, delay = 0;
	usleep(200000);
	write_frame(frame, 1, 0, 0, option.size); /* the bridge learns the receiver */
	tap_send(to, frame + HEADER, option.size, 1);
	write_frame(frame, 0, 1, 0, option.size);
	for (;;) {
		uint64_t t = now();
		if (!measured && t >= from) {
			measured = t;
			begin = c;
			delay = run_delay();
		}
		if (measured && t >= end) {
			r.seconds = (double)(t - measured) / 1e9;
			break;
		}
		c.sent += tap_send(from_fd, frame + HEADER, option.size, BURST);
		uint32_t got = tap_receive(to, room, sizeof room);
		c.received += got;
		c.bytes += (uint64_t)got * option.size;
		c.polls++;
		c.empty_rx += got == 0;
	}
	r.delay = run_delay() - delay;
	r.c = minus(c, begin);
	return r;
}

/* Without a switch: the limit of those that copy. */
static struct result run_copies(bool w3)
{
	struct copy_options o = {option.size, option.ring, option.copy_core, w3, w3, option.seconds, option.warmup};
	struct copy_result c = copy_run(&o);
	struct result r = {.c = {.sent = c.frames, .received = c.frames, .bytes = c.frames * option.size, .all = 1000, .idle = (uint64_t)(c.idle * 1000)},
			   .seconds = c.seconds,
			   .delay = c.delay};
	return r;
}

/* Latencies in nanoseconds: 10 ns wide classes up to 655 us, the last for all above. */
static uint64_t map[MAX_MAP], maximum;

static void note(uint64_t ns)
{
	map[ns / 10 < MAX_MAP - 1 ? ns / 10 : MAX_MAP - 1]++;
	if (ns > maximum)
		maximum = ns;
}

static double percentile(double share)
{
	uint64_t total = 0, sum = 0;
	for (uint32_t i = 0; i < MAX_MAP; i++)
		total += map[i];
	for (uint32_t i = 0; i < MAX_MAP; i++)
		if ((sum += map[i]) > (uint64_t)((double)total * share))
			return (double)i / 100;
	return 0;
}

static void put_time(uint32_t p, char *b, struct counters *c)
{
	(void)p, (void)c;
	uint64_t t = now();
	memcpy(b + HEADER + SEQUENCE, &t, 8);
}

static uint64_t ignore_before;

static void see_time(uint32_t p, char *f, uint32_t len, struct counters *c)
{
	(void)p, (void)len, (void)c;
	uint64_t t, n = now();
	memcpy(&t, f + SEQUENCE, 8);
	if (t >= ignore_before)
		note(n - t);
}

/* One frame in flight, or a steady rate; interval is 0 for the former. */
static struct result run_latency(double interval)
{
	struct counters c = {0};
	struct result r = {.c = {0}};
	uint64_t start = now(), end;
	ignore_before = start + (uint64_t)(option.warmup * 1e9);
	end = ignore_before + (uint64_t)(option.seconds * 1e9);
	double due = (double)start;
	uint64_t delay = run_delay(), lost_after = 0;
	wake_all();
	for (;;) {
		uint64_t t = now();
		if (t >= end)
			break;
		receive(1, see_time, &c);
		reclaim(0);
		bool send = interval > 0 ? (double)t >= due : c.sent == c.received || t > lost_after;
		if (send && free_count[0]) {
			struct queue *q = &port[0].queue[TX];
			uint32_t id = free_id[0][--free_count[0]];
			put_time(0, buffer(q, id), &c);
			offer(q, (uint16_t)id, option.size + HEADER);
			publish(q);
			kick(q);
			if (interval == 0 && t > lost_after && c.sent != c.received) {
				c.bad++; /* given up on */
				c.sent = c.received;
			}
			c.sent++;
			due += interval;
			lost_after = t + 100000000;
		}
		c.polls++;
	}
	r.seconds = option.seconds + option.warmup;
	r.delay = run_delay() - delay;
	r.c = c;
	return r;
}

static void print_result(struct result r, bool latency)
{
	printf("{\"mode\":\"%s\",\"ports\":%u,\"size\":%u,\"ring\":%u,\"packed\":%s,\"in_order\":%s,\"addresses\":%u,", option.mode, option.ports, option.size,
	       option.ring, option.packed ? "true" : "false", option.in_order ? "true" : "false", option.addresses * option.ports);
	printf("\"seconds\":%.3f,\"frames\":%llu,\"sent\":%llu,\"mpps\":%.4f,\"gbps\":%.3f,\"bad\":%llu,\"empty_rx\":%.3f,\"empty_tx\":%.3f,\"idle\":%.3f,\"waited\":%.4f",
	       r.seconds, (unsigned long long)r.c.received, (unsigned long long)r.c.sent, (double)r.c.received / r.seconds / 1e6,
	       (double)r.c.bytes * 8 / r.seconds / 1e9, (unsigned long long)r.c.bad, (double)r.c.empty_rx / (double)(r.c.polls ? r.c.polls : 1),
	       (double)r.c.empty_tx / (double)(r.c.polls ? r.c.polls : 1), (double)r.c.idle / (double)(r.c.all ? r.c.all : 1),
	       (double)r.delay / 1e9 / r.seconds);
	if (latency)
		printf(",\"p50_us\":%.2f,\"p99_us\":%.2f,\"p999_us\":%.2f,\"max_us\":%.2f", percentile(0.5), percentile(0.99), percentile(0.999),
		       (double)maximum / 1000);
	printf("}\n");
}

static void usage(int code)
{
	fprintf(code ? stderr : stdout,
		"usage: generator --mode w2|w3|verify|latency|rate|interrupt|tap|copy|copy-w2 [options] SOCKET SOCKET...\n"
		"  --size BYTES       of a frame without FCS (64)\n"
		"  --ring N           descriptors (256)\n"
		"  --packed           packed rings\n"
		"  --in-order         negotiate VIRTIO_F_IN_ORDER\n"
		"  --addresses N      of each port (1)\n"
		"  --seconds S        of measurement (2), after --warmup S (0.5)\n"
		"  --rate N           frames a second of mode rate (1000000)\n"
		"  --hugepages        memory from hugepages\n"
		"  --core N           pin the thread\n"
		"  --copy-core N      pin the thread that copies, of mode copy (1)\n"
		"Ports are pairs: the first sends to the second, the third to the fourth. A socket may be named more than once.\n");
	exit(code);
}

static void read_options(int argc, char **argv)
{
	static const struct option names[] = {
		{"mode", 1, 0, 'm'}, {"size", 1, 0, 's'}, {"ring", 1, 0, 'r'}, {"packed", 0, 0, 'p'}, {"in-order", 0, 0, 'i'}, {"addresses", 1, 0, 'a'},
		{"seconds", 1, 0, 't'}, {"warmup", 1, 0, 'w'}, {"rate", 1, 0, 'f'}, {"hugepages", 0, 0, 'g'}, {"core", 1, 0, 'c'}, {"copy-core", 1, 0, 'C'}, {"help", 0, 0, 'h'}, {0},
	};
	for (int o; (o = getopt_long(argc, argv, "", names, NULL)) != -1;) {
		switch (o) {
		case 'm': option.mode = optarg; break;
		case 's': option.size = (uint32_t)atoi(optarg); break;
		case 'r': option.ring = (uint32_t)atoi(optarg); break;
		case 'p': option.packed = true; break;
		case 'i': option.in_order = true; break;
		case 'a': option.addresses = (uint32_t)atoi(optarg); break;
		case 't': option.seconds = atof(optarg); break;
		case 'w': option.warmup = atof(optarg); break;
		case 'f': option.rate = atof(optarg); break;
		case 'g': option.hugepages = true; break;
		case 'c': option.core = (uint32_t)atoi(optarg); break;
		case 'C': option.copy_core = (uint32_t)atoi(optarg); break;
		case 'h': usage(0); break;
		default: usage(2);
		}
	}
	option.ports = (uint32_t)(argc - optind);
	for (uint32_t i = 0; i < option.ports && i < MAX_PORTS; i++)
		option.path[i] = argv[optind + (int)i];
	if (!strncmp(option.mode, "copy", 4))
		option.ports = 2; /* no sockets */
	if (option.ports < 2 || option.ports > MAX_PORTS || option.ports % 2 || option.size < CONTENT + 8 || option.size > 9200 || option.ring < 2 ||
	    option.ring > 32768 || option.ring & (option.ring - 1) || option.addresses < 1 || option.addresses > 4096 || option.rate <= 0)
		usage(2);
}

int main(int argc, char **argv)
{
	read_options(argc, argv);
	if (option.core != ~0u) {
		cpu_set_t set;
		CPU_ZERO(&set);
		CPU_SET(option.core, &set);
		if (sched_setaffinity(0, sizeof set, &set) < 0) {
			perror("generator: --core");
			return 1;
		}
	}
	if (!strcmp(option.mode, "tap")) {
		print_result(run_taps(), false);
		return 0;
	}
	if (!strcmp(option.mode, "copy") || !strcmp(option.mode, "copy-w2")) {
		print_result(run_copies(!strcmp(option.mode, "copy")), false);
		return 0;
	}
	struct port_options o = {option.ring, option.size < 1518 ? 1518 : option.size, option.packed, option.in_order, !strcmp(option.mode, "interrupt"),
				 option.hugepages};
	for (uint32_t p = 0; p < option.ports; p++) {
		port_open(&port[p], option.path[p], &o);
		for (uint32_t i = 0; i < option.ring; i++)
			free_id[p][free_count[p]++] = option.ring - 1 - i;
	}
	usleep(300000); /* until the switch serves the rings */
	teach();
	fill();
	for (uint32_t p = 0; p < option.ports; p++) /* in the order of memory, if none is on its way */
		for (uint32_t i = 0; free_count[p] == option.ring && i < option.ring; i++)
			free_id[p][i] = option.ring - 1 - i;
	struct result r;
	bool latency = false;
	if (!strcmp(option.mode, "w2"))
		r = run_w2();
	else if (!strcmp(option.mode, "w3"))
		r = run_w3();
	else if (!strcmp(option.mode, "verify"))
		r = run_verify();
	else if (!strcmp(option.mode, "interrupt"))
		r = run_interrupts();
	else if (!strcmp(option.mode, "latency")) {
		r = run_latency(0);
		latency = true;
	} else if (!strcmp(option.mode, "rate")) {
		r = run_latency(1e9 / option.rate);
		latency = true;
	} else
		usage(2);
	print_result(r, latency);
	return r.c.bad && (!strcmp(option.mode, "verify") || !strcmp(option.mode, "interrupt")) ? 4 : 0;
}
