/* The limit of every switch that copies: frames are moved between two cores with nothing but a memcpy, without rings, headers or a decision. */
#ifndef COPY_H
#define COPY_H

#include <stdbool.h>
#include <stdint.h>

struct copy_options {
	uint32_t size, ring; /* bytes of a frame, frames on their way */
	uint32_t core;	     /* of the thread that copies */
	bool both, touch;    /* both ways; payload written and read */
	double seconds, warmup;
};

struct copy_result {
	uint64_t frames;
	double seconds;
	double idle;	/* share of the time in which the first core found nothing copied */
	uint64_t delay; /* nanoseconds that the copying thread waited for its processor */
};

struct copy_result copy_run(const struct copy_options *o);

#endif
