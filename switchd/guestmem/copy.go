package guestmem

// CopySegments copies n bytes from offset srcOff of src to offset dstOff of dst. Both must hold that many bytes.
func CopySegments(dst []Segment, dstOff int, src []Segment, srcOff, n int) {
	di, do := seek(dst, dstOff)
	si, so := seek(src, srcOff)
	for n > 0 {
		part := min(n, int(dst[di].Len)-do, int(src[si].Len)-so)
		Copy(dst[di].Addr+Ptr(do), src[si].Addr+Ptr(so), part)
		n -= part
		if do += part; do == int(dst[di].Len) {
			di, do = di+1, 0
		}
		if so += part; so == int(src[si].Len) {
			si, so = si+1, 0
		}
	}
}

// ReadSegments fills p from offset off of src, which must hold that many bytes.
func ReadSegments(p []byte, src []Segment, off int) {
	for i, o := seek(src, off); len(p) > 0; i, o = i+1, 0 {
		part := min(len(p), int(src[i].Len)-o)
		copy(p, (src[i].Addr + Ptr(o)).Bytes(part))
		p = p[part:]
	}
}

// WriteSegments writes p to offset off of dst, which must hold that many bytes.
func WriteSegments(dst []Segment, off int, p []byte) {
	for i, o := seek(dst, off); len(p) > 0; i, o = i+1, 0 {
		part := min(len(p), int(dst[i].Len)-o)
		copy((dst[i].Addr + Ptr(o)).Bytes(part), p)
		p = p[part:]
	}
}

// seek finds the segment that holds byte off, and the offset in it.
func seek(s []Segment, off int) (int, int) {
	i := 0
	for i < len(s) && off >= int(s[i].Len) {
		off -= int(s[i].Len)
		i++
	}
	return i, off
}
