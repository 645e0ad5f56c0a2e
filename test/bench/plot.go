package main

import (
	"fmt"
	"html"
	"math"
	"strings"
)

// The plot is a grid of panels, each with one line for a switch: by frame size for the three workloads, and switchd's growth with ports,
// addresses and ring sizes.

const (
	panelWidth, panelHeight = 360, 240
	marginLeft, marginTop   = 52, 34
	innerWidth, innerHeight = panelWidth - marginLeft - 14, panelHeight - marginTop - 44
)

// series is one line: a value at each of the panel's places, NaN for none.
type series struct {
	name   string
	values []float64
	low    []float64
	high   []float64
}

type panel struct {
	title  string
	labels []string
	lines  []series
}

var colors = []string{"#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf"}

// plot draws all panels that have something to show.
func (r *results) plot() string {
	var panels []panel
	for _, p := range []panel{
		r.panel("W2: one way, untouched", func(w work) bool { return w.Name == "W2" && w.Ring == 256 && w.plain() && !w.Packed }, bySize),
		r.panel("W3: both ways, touched", func(w work) bool { return w.Name == "W3" && w.Ring == 256 && w.plain() && !w.Packed }, bySize),
		r.panel("W1: testpmd, io loop", func(w work) bool { return w.Name == "W1" && !w.Packed && !w.InOrder }, bySize),
		r.panel("W1 with in_order=1", func(w work) bool { return w.Name == "W1" && !w.Packed && w.InOrder }, bySize),
		r.panel("W1, packed ring", func(w work) bool { return w.Name == "W1" && w.Packed }, bySize),
		r.panel("W3, packed ring", func(w work) bool { return w.Name == "W3" && w.Packed }, bySize),
		r.panel("W2 64 B by ports", func(w work) bool {
			return w.Name == "W2" && w.Size == 64 && w.Ring == 256 && w.Addresses == 1 && !w.Packed
		},
			func(w work) string { return fmt.Sprint(w.Ports) }),
		r.panel("W2 64 B by addresses", func(w work) bool { return w.Name == "W2" && w.Size == 64 && w.Ring == 256 && w.Ports == 2 && !w.Packed },
			func(w work) string { return fmt.Sprint(w.Addresses * w.Ports) }),
		r.panel("W2 64 B by ring size", func(w work) bool { return w.Name == "W2" && w.Size == 64 && w.plain() && !w.Packed },
			func(w work) string { return fmt.Sprint(w.Ring) }),
	} {
		if len(p.labels) > 0 {
			panels = append(panels, p)
		}
	}
	const columns = 3
	rows := (len(panels) + columns - 1) / columns
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="11">`+"\n", columns*panelWidth,
		max(rows, 1)*panelHeight+20)
	b.WriteString("<style>text{fill:#222}.axis{stroke:#888}.grid{stroke:#ddd}.paper{fill:#fff}\n" +
		"@media(prefers-color-scheme:dark){text{fill:#ddd}.axis{stroke:#999}.grid{stroke:#333}.paper{fill:#111}}</style>\n" +
		`<rect class="paper" width="100%" height="100%"/>` + "\n")
	for i, p := range panels {
		fmt.Fprintf(&b, `<g transform="translate(%d,%d)">`+"\n%s</g>\n", i%columns*panelWidth, i/columns*panelHeight, p.draw())
	}
	fmt.Fprintf(&b, `<text x="8" y="%d">%s: median of %d rounds, bars from lowest to highest; millions of frames a second</text>`+"\n</svg>\n",
		max(rows, 1)*panelHeight+12, html.EscapeString(r.Date.Format("2006-01-02")+", "+r.Machine.CPU), r.Rounds)
	return b.String()
}

func bySize(w work) string { return fmt.Sprint(w.Size) }

// plain is the work with two ports and one address each.
func (w work) plain() bool { return w.Ports == 2 && w.Addresses == 1 && !w.InOrder }

// panel collects the summaries that belong to it, by label.
func (r *results) panel(title string, belongs func(work) bool, label func(work) string) panel {
	p := panel{title: title}
	var works []work
	for _, w := range r.works() {
		if belongs(w) {
			works = append(works, w)
			p.labels = append(p.labels, label(w))
		}
	}
	if len(works) < 2 {
		return panel{}
	}
	for _, n := range r.peers() {
		s := series{name: n}
		some := false
		for _, w := range works {
			v, low, high := math.NaN(), math.NaN(), math.NaN()
			if f := r.find(n, w); f != nil {
				v, low, high, some = f.Median, f.Low, f.High, true
			}
			s.values, s.low, s.high = append(s.values, v), append(s.low, low), append(s.high, high)
		}
		if some {
			p.lines = append(p.lines, s)
		}
	}
	return p
}

// draw makes the panel's elements.
func (p panel) draw() string {
	top := 0.0
	for _, l := range p.lines {
		for _, v := range l.high {
			if v > top {
				top = v
			}
		}
	}
	step := niceStep(top / 4)
	top = math.Ceil(top/step) * step
	x := func(i int) float64 { return marginLeft + float64(innerWidth)*(float64(i)+0.5)/float64(len(p.labels)) }
	y := func(v float64) float64 { return marginTop + float64(innerHeight)*(1-v/top) }
	var b strings.Builder
	fmt.Fprintf(&b, `<text x="%d" y="16" font-weight="bold">%s</text>`+"\n", marginLeft, html.EscapeString(p.title))
	for v := 0.0; v <= top+step/2; v += step {
		fmt.Fprintf(&b, `<line class="grid" x1="%d" x2="%d" y1="%.1f" y2="%.1f"/><text x="%d" y="%.1f" text-anchor="end">%g</text>`+"\n", marginLeft,
			marginLeft+innerWidth, y(v), y(v), marginLeft-6, y(v)+4, v)
	}
	for i, l := range p.labels {
		fmt.Fprintf(&b, `<text x="%.1f" y="%d" text-anchor="middle">%s</text>`+"\n", x(i), marginTop+innerHeight+16, html.EscapeString(l))
	}
	fmt.Fprintf(&b, `<line class="axis" x1="%d" x2="%d" y1="%d" y2="%d"/>`+"\n", marginLeft, marginLeft+innerWidth, marginTop+innerHeight, marginTop+innerHeight)
	legend := marginLeft
	for n, l := range p.lines {
		color := colors[n%len(colors)]
		var points []string
		for i, v := range l.values {
			if math.IsNaN(v) {
				continue
			}
			points = append(points, fmt.Sprintf("%.1f,%.1f", x(i), y(v)))
			fmt.Fprintf(&b, `<circle cx="%.1f" cy="%.1f" r="3" fill="%s"/><line x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f" stroke="%s"/>`+"\n", x(i), y(v), color,
				x(i), x(i), y(l.low[i]), y(l.high[i]), color)
		}
		fmt.Fprintf(&b, `<polyline points="%s" fill="none" stroke="%s" stroke-width="1.5"/>`+"\n", strings.Join(points, " "), color)
		fmt.Fprintf(&b, `<rect x="%d" y="%d" width="10" height="10" fill="%s"/><text x="%d" y="%d">%s</text>`+"\n", legend, marginTop+innerHeight+24, color, legend+14,
			marginTop+innerHeight+33, html.EscapeString(l.name))
		legend += 24 + 7*len(l.name)
	}
	return b.String()
}

// niceStep rounds up to 1, 2 or 5 times a power of ten.
func niceStep(v float64) float64 {
	if !(v > 0) {
		return 1
	}
	power := math.Pow(10, math.Floor(math.Log10(v)))
	for _, f := range []float64{1, 2, 5, 10} {
		if f*power >= v {
			return f * power
		}
	}
	return 10 * power
}
