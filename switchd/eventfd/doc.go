// Package eventfd adds to the counters of eventfds that somebody else shares, without ever waiting for him.
//
// write(2) on an eventfd blocks while its counter is full, unless O_NONBLOCK is set; but that flag belongs to the open file, which a
// front-end shares with the switch, and may clear at any time. Linux's asynchronous I/O can signal an eventfd when a request is done
// (IOCB_FLAG_RESFD, io_submit(2)), and that never blocks: the kernel adds to the counter up to its limit. So a signal is a read of nothing
// from /dev/null whose completion is to be told to the eventfd. All signals of a round are one system call.
package eventfd
