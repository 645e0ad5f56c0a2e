// Command bench compares switchd with the switches that can be had beside it, on this machine, in one run: each gets the same work in turn,
// again and again, so that what the machine does meanwhile hits all of them. It writes a table, a JSON file and a plot.
package main
