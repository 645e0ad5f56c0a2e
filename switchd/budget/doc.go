// Package budget counts what foreigners make the switch take: ports, connections, descriptors, threads, mappings, address space, memory.
// A front-end, a process that asks the broker, or a user may be hostile, and each of these has an end at which the whole process would stop
// (the Go runtime ends it when it can map no memory or start no thread). So everything is counted in an Account before it is taken, and
// refused where the bound of the device, of the user, or of the switch is met.
package budget
