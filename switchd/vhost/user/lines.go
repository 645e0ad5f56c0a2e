package user

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// What a socket's connections may write into the log.
const (
	linePeriod = time.Minute
	maxReasons = 64 // different lines about refused connections in a period
	// Lines about devices that come and go: so many at once, and a second. A thousand guests may start at the same time.
	freeLines, linesPerSecond = 2048, 20
)

// lines bounds the log of a socket: who connects without end must not fill the disk, or hide other lines. It is safe for concurrent use.
type lines struct {
	mu       sync.Mutex
	since    time.Time
	seen     map[string]bool // lines of this period
	withheld int             // lines of this period that were not written
	bucket   bucket
}

// once writes a line about a refused connection once a period, however often it is due. The next period begins with how many were withheld.
func (l *lines) once(log *slog.Logger, now time.Time, text string, reason Reason, err error) {
	l.mu.Lock()
	l.turn(log, now)
	key := string(reason) + err.Error()
	write := !l.seen[key] && len(l.seen) < maxReasons
	if write {
		l.seen[key] = true
	} else {
		l.withheld++
	}
	l.mu.Unlock()
	level := slog.LevelError
	if !write {
		level = slog.LevelDebug
	}
	log.Log(context.Background(), level, text, "reason", string(reason), "error", err)
}

// info writes a line about a device that comes or goes.
func (l *lines) info(log *slog.Logger, now time.Time, text string, args ...any) {
	level := slog.LevelInfo
	if !l.allow(log, now) {
		level = slog.LevelDebug
	}
	log.Log(context.Background(), level, text, args...)
}

// allow tells whether another line may be written.
func (l *lines) allow(log *slog.Logger, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.turn(log, now)
	if l.bucket.take(now, freeLines, linesPerSecond) {
		return true
	}
	l.withheld++
	return false
}

// turn begins a period. The caller holds the lock.
func (l *lines) turn(log *slog.Logger, now time.Time) {
	if now.Sub(l.since) < linePeriod && l.seen != nil {
		return
	}
	if l.withheld > 0 {
		log.Warn("front-ends came and went more often than the log tells", "lines_withheld", l.withheld, "within", now.Sub(l.since).Round(time.Second).String())
	}
	l.since, l.seen, l.withheld = now, map[string]bool{}, 0
}
