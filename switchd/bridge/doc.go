// Package bridge is what a network knows of its stations: which addresses are behind which port, how they are learned, aged and forgotten. It
// is pure: no I/O, no clock, no frames. Its owner (forward) says what time it is and what the destinations mean.
package bridge
