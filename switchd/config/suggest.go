package config

// Suggest finds the name of an option, or of a section, that somebody who wrote this name may have meant; empty: there is none.
func Suggest(name string) string {
	best, least := "", len(name)/3+2
	try := func(candidate string) {
		if d := distance(name, candidate); d < least {
			best, least = candidate, d
		}
	}
	for _, o := range Options() {
		try(o.Name)
	}
	for _, s := range Sections() {
		try(s.Name)
	}
	return best
}

// didYouMean is the suggestion as part of a message.
func didYouMean(name string) string {
	if s := Suggest(name); s != "" {
		return ` (did you mean "` + s + `"?)`
	}
	return ""
}

// distance is how many bytes have to be added, removed or changed to make a of b (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal, row[j+1] = row[j+1], min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
