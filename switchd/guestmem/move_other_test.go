//go:build !amd64

package guestmem

func implementations() map[string]func([]Move) {
	return map[string]func([]Move){"go": moveGeneric}
}
