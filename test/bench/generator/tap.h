/* The kernel's way between two guests without vhost: a tap for each, and a bridge. QEMU reads and writes frames one by one as this does. */
#ifndef TAP_H
#define TAP_H

int tap_open(const char *name);
unsigned tap_send(int fd, const char *frame, unsigned size, unsigned n);
unsigned tap_receive(int fd, char *room, unsigned size);

#endif
