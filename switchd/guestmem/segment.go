package guestmem

// Segment is a stretch of memory outside the Go heap: part of a guest's buffer, or of a Buffer of ours.
type Segment struct {
	Addr Ptr
	Len  uint32 // bytes
}
