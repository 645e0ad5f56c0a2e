package forward

import "time"

// Alive tells whether every worker has made a round since the last call, or makes one within some time after being woken; if not, which one
// has not. For one caller.
func (s *Switch) Alive(patience time.Duration) (worker int, ok bool) {
	if !s.running.Load() {
		return 0, true
	}
	for _, w := range s.workers {
		if !w.moves(patience) {
			return w.index, false
		}
	}
	return 0, true
}

func (w *worker) moves(patience time.Duration) bool {
	before := w.watched
	for end := time.Now().Add(patience); ; time.Sleep(patience / 100) {
		w.watched = w.stats.rounds.Load()
		if w.watched != before {
			return true
		}
		if time.Now().After(end) {
			return false
		}
		w.wakeUp()
	}
}
