// Package logging is the switch's output: log lines on standard error, DATA: lines and the statistics screen on standard output. What runs
// guests must never wait for whoever reads that output, and no guest may fill a disk, or hide another's lines, by making the switch talk.
//
// So a line passes two stages. A budget (budgets, handler) bounds how many lines there are about a port, about a socket and in all; what is
// left out is summed up in one line a minute for each. Then a Writer takes the line into a bounded queue, from which a goroutine of its own
// writes; a reader that stands still costs lines, which are counted, and nothing else.
package logging
