package bench

import (
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// WriteSVG draws results of any systems and workloads: distributions of latency, and of each workload with events the course of one run
// around them, the first.
func WriteSVG(w io.Writer, results []*Result) error {
	return plot(results, func(width, height float64) canvas { return newSVG(width, height) }, w)
}

// WritePNG draws the same as WriteSVG.
func WritePNG(w io.Writer, results []*Result) error {
	return plot(results, func(width, height float64) canvas { return newPNG(width, height) }, w)
}

// canvas is what is drawn on, in units of a pixel of the SVG, from the upper left corner.
type canvas interface {
	fill(shape []point, c ink)
	line(path []point, width float64, dashed bool, c ink)
	text(at point, s string, t textStyle)
	writeTo(w io.Writer) error
}

type point struct{ x, y float64 }

// ink is a colour and how opaque it is, 0 to 1.
type ink struct {
	r, g, b uint8
	alpha   float64
}

type textStyle struct {
	size   float64 // of the font
	align  float64 // 0: the text begins at the point, 0.5: it has it in the middle, 1: it ends there
	bold   bool
	turned bool // upwards
	c      ink
}

var (
	white = ink{255, 255, 255, 1}
	black = ink{34, 34, 34, 1}
	grey  = ink{110, 110, 110, 1}
	faint = ink{225, 225, 225, 1}
	red   = ink{214, 39, 40, 1}
	blue  = ink{31, 119, 180, 1}

	// colours tell lines apart; they are told apart in print and by most who see fewer colours, too.
	colours = []ink{blue, {230, 120, 0, 1}, {0, 130, 90, 1}, {204, 60, 120, 1}, {90, 90, 200, 1}, {150, 90, 30, 1}, {0, 160, 190, 1}, {120, 120, 0, 1}}
)

func (c ink) faded(alpha float64) ink { c.alpha = alpha; return c }

const (
	plotWidth   = 1080.0
	panelLeft   = 90.0
	panelRight  = 800.0 // of latencies; the legend is beyond
	lineRight   = 1040.0
	titleHeight = 64.0
	distHeight  = 400.0
	timeHeight  = 430.0
	maxLines    = 8 // of one panel, as many as there are colours
)

// plot lays out one panel of distributions for every eight summaries, and one time line for each summary with events.
func plot(results []*Result, open func(width, height float64) canvas, w io.Writer) error {
	if len(results) == 0 {
		return errors.New("there is nothing to draw")
	}
	all := Summarize(results)
	var events []*Result
	for _, s := range all {
		if r := s.Runs[0]; r.Series != nil && len(r.Series.Events) > 0 {
			events = append(events, r)
		}
	}
	panels := (len(all) + maxLines - 1) / maxLines
	c := open(plotWidth, titleHeight+float64(panels)*distHeight+float64(len(events))*timeHeight)
	drawTitle(c, results[0])
	y := titleHeight
	for part := range slices.Chunk(all, maxLines) {
		if err := drawDistributions(c, y, part); err != nil {
			return err
		}
		y += distHeight
	}
	for _, r := range events {
		drawTimeLine(c, y, r)
		y += timeHeight
	}
	return c.writeTo(w)
}

func drawTitle(c canvas, r *Result) {
	c.text(point{panelLeft, 28}, fmt.Sprintf("ringfence %s, %s, %s", r.Version, r.commitText(), r.At.Format("2006-01-02 15:04")), textStyle{size: 16, bold: true, c: black})
	c.text(point{panelLeft, 48}, fmt.Sprintf("%s, %d CPUs; fdatasync %v; %s", r.CPU, r.CPUs, r.Fsync.Median, r.Command), textStyle{size: 12, c: grey})
}

// axis maps values to places.
type axis struct {
	from, to float64 // values
	at, end  float64 // places
	log      bool
}

func (a axis) place(v float64) float64 {
	f, t := a.from, a.to
	if a.log {
		v, f, t = math.Log(max(v, a.from)), math.Log(f), math.Log(t)
	}
	return a.at + (min(max((v-f)/(t-f), 0), 1))*(a.end-a.at)
}

// decades is a logarithmic axis around values, whole powers of ten from end to end.
func decades(low, high, at, end float64) axis {
	low, high = math.Pow(10, math.Floor(math.Log10(max(low, 1)))), math.Pow(10, math.Ceil(math.Log10(max(high, 10))))
	if high <= low {
		high = low * 10
	}
	return axis{low, high, at, end, true}
}

// steps are round values on a linear axis, at most about n.
func (a axis) steps(n int) []float64 {
	raw := (a.to - a.from) / float64(n)
	size := math.Pow(10, math.Floor(math.Log10(raw)))
	for _, f := range []float64{1, 2, 5, 10} {
		if f*size >= raw {
			size *= f
			break
		}
	}
	var all []float64
	for v := math.Ceil(a.from/size) * size; v <= a.to+size/1e6; v += size {
		all = append(all, v)
	}
	return all
}

// percentiles that are marked.
var percentiles = []float64{0, 50, 90, 99, 99.9, 99.99}

// nines makes equal distances of 90, 99 and 99.9 percent.
func nines(percent float64) float64 { return 1 / (1 - min(percent, 99.999)/100) }

func drawDistributions(c canvas, top float64, all []Summary) error {
	var sums []*hdrhistogram.Histogram
	low, high := math.Inf(1), 0.0
	for _, s := range all {
		sum := newHistogram()
		for _, r := range s.Runs {
			h, err := r.histogram()
			if err != nil {
				return err
			}
			if h != nil {
				sum.Merge(h)
			}
		}
		sums = append(sums, sum)
		if sum.TotalCount() > 0 {
			low, high = min(low, float64(sum.Min())), max(high, float64(sum.Max()))
		}
	}
	if high == 0 {
		low, high = 1, 10
	}
	x := axis{1, nines(99.99), panelLeft, panelRight, true}
	y := decades(low, high, top+distHeight-60, top+34)
	c.text(point{panelLeft, top + 20}, "Latency by percentile, of all runs", textStyle{size: 14, bold: true, c: black})
	drawLatencyAxis(c, y, panelLeft, panelRight)
	for _, p := range percentiles {
		at := x.place(nines(p))
		c.line([]point{{at, y.at}, {at, y.end}}, 1, false, faint)
		c.text(point{at, y.at + 18}, strconv.FormatFloat(p, 'f', -1, 64)+"%", textStyle{size: 12, align: 0.5, c: grey})
	}
	c.text(point{(panelLeft + panelRight) / 2, y.at + 38}, "share of the operations that took no longer", textStyle{size: 12, align: 0.5, c: grey})
	for i, s := range all {
		drawDistribution(c, x, y, sums[i], colours[i%len(colours)])
		drawLegend(c, point{panelRight + 24, top + 44 + float64(i)*42}, s, colours[i%len(colours)])
	}
	return nil
}

func drawDistribution(c canvas, x, y axis, h *hdrhistogram.Histogram, colour ink) {
	if h.TotalCount() == 0 {
		return
	}
	var path []point
	const per = 40 // points for each factor of ten
	for i := 0; ; i++ {
		n := math.Pow(10, float64(i)/per)
		if n > nines(99.99)*1.001 || n > float64(h.TotalCount()) {
			break
		}
		path = append(path, point{x.place(n), y.place(float64(h.ValueAtQuantile(100 * (1 - 1/n))))})
	}
	c.line(path, 2, false, colour)
}

func drawLegend(c canvas, at point, s Summary, colour ink) {
	r := s.Runs[0]
	c.line([]point{{at.x, at.y - 4}, {at.x + 22, at.y - 4}}, 3, false, colour)
	name := r.name()
	if r.System != "ringfence" {
		name = r.System + ": " + name
	}
	if r.Rate > 0 {
		name += " at " + number(r.Rate) + "/s"
	}
	c.text(point{at.x + 30, at.y}, name, textStyle{size: 12, bold: true, c: black})
	p99 := s.Of(func(r *Result) float64 { return float64(r.P99) })
	c.text(point{at.x + 30, at.y + 15}, fmt.Sprintf("%s ops/s, p99 %v", number(math.Round(s.Of((*Result).opsPerSecond).Median)), Micros(p99.Median)), textStyle{size: 11, c: grey})
}

// drawLatencyAxis marks the powers of ten of a logarithmic axis of microseconds.
func drawLatencyAxis(c canvas, y axis, left, right float64) {
	for v := y.from; v <= y.to*1.001; v *= 10 {
		at := y.place(v)
		c.line([]point{{left, at}, {right, at}}, 1, false, faint)
		c.text(point{left - 8, at + 4}, roundTime(v), textStyle{size: 12, align: 1, c: grey})
	}
}

func roundTime(us float64) string { return (time.Duration(us) * time.Microsecond).String() }

// drawTimeLine draws the successes and failures of one run above its latencies.
func drawTimeLine(c canvas, top float64, r *Result) {
	s, step := r.Series, time.Duration(r.Series.Step).Seconds()
	seconds := time.Duration(r.Duration).Seconds()
	x := axis{0, max(seconds, step), panelLeft, lineRight, false}
	c.text(point{panelLeft, top + 20}, fmt.Sprintf("%s on %s, run %d", r.name(), r.System, r.Run), textStyle{size: 14, bold: true, c: black})
	highest := 1.0
	for i := range s.OK {
		highest = max(highest, float64(s.OK[i])/step, float64(s.Failed[i])/step)
	}
	rate := axis{0, highest * 1.05, top + 250, top + 74, false}
	high := 10.0
	for _, v := range s.Max {
		high = max(high, float64(v))
	}
	low := high
	for _, v := range s.P99 {
		if v > 0 {
			low = min(low, float64(v))
		}
	}
	latency := decades(low, high, top+timeHeight-50, top+272)
	drawPhases(c, r, x, top+56, latency.at)
	drawRates(c, s, step, x, rate)
	drawLatencies(c, s, step, x, latency)
	for _, v := range x.steps(14) {
		at := x.place(v)
		c.line([]point{{at, latency.at}, {at, latency.at + 4}}, 1, false, grey)
		c.text(point{at, latency.at + 18}, number(math.Round(v*1000)/1000)+" s", textStyle{size: 12, align: 0.5, c: grey})
	}
	drawEvents(c, s.Events, x, top+40, latency.at)
}

func drawPhases(c canvas, r *Result, x axis, top, bottom float64) {
	for i, p := range r.Phases {
		left, right := x.place(time.Duration(p.From).Seconds()), x.place(time.Duration(p.To).Seconds())
		if i%2 == 1 {
			c.fill([]point{{left, top}, {right, top}, {right, bottom}, {left, bottom}}, ink{0, 0, 0, 0.045})
		}
		if right-left > 9*float64(len(p.Name)) {
			c.text(point{(left + right) / 2, top + 13}, p.Name, textStyle{size: 11, align: 0.5, c: grey})
		}
	}
}

func drawRates(c canvas, s *Series, step float64, x, y axis) {
	for _, v := range y.steps(5) {
		at := y.place(v)
		c.line([]point{{panelLeft, at}, {lineRight, at}}, 1, false, faint)
		c.text(point{panelLeft - 8, at + 4}, number(v), textStyle{size: 12, align: 1, c: grey})
	}
	c.text(point{26, (y.at + y.end) / 2}, "operations / s", textStyle{size: 12, align: 0.5, turned: true, c: grey})
	area := []point{{x.at, y.at}}
	for i, n := range s.OK {
		at := y.place(float64(n) / step)
		area = append(area, point{x.place(float64(i) * step), at}, point{x.place(float64(i+1) * step), at})
	}
	c.fill(append(slices.Clone(area), point{area[len(area)-1].x, y.at}), blue.faded(0.22))
	c.line(area[1:], 1.5, false, blue)
	c.text(point{lineRight - 4, y.end + 14}, "succeeded", textStyle{size: 12, align: 1, bold: true, c: blue})
	failures := false
	for i, n := range s.Failed {
		if n > 0 { // at least a pixel high: one failure is to be seen
			left, right, at := x.place(float64(i)*step), x.place(float64(i+1)*step), min(y.place(float64(n)/step), y.at-2)
			c.fill([]point{{left, y.at}, {left, at}, {right, at}, {right, y.at}}, red)
			failures = true
		}
	}
	if failures {
		c.text(point{lineRight - 4, y.end + 30}, "failed", textStyle{size: 12, align: 1, bold: true, c: red})
	}
}

func drawLatencies(c canvas, s *Series, step float64, x, y axis) {
	drawLatencyAxis(c, y, panelLeft, lineRight)
	c.text(point{26, (y.at + y.end) / 2}, "latency", textStyle{size: 12, align: 0.5, turned: true, c: grey})
	for _, l := range []struct {
		values []Micros
		name   string
		colour ink
		row    float64
	}{{s.Max, "longest", colours[1], 0}, {s.P99, "p99", colours[2], 1}} {
		var path []point
		for i, v := range l.values {
			if v == 0 { // nothing succeeded: no line
				c.line(path, 1.5, false, l.colour)
				path = nil
				continue
			}
			path = append(path, point{x.place((float64(i) + 0.5) * step), y.place(float64(v))})
		}
		c.line(path, 1.5, false, l.colour)
		c.text(point{lineRight - 4 - 60*l.row, y.end - 6}, l.name, textStyle{size: 12, align: 1, bold: true, c: l.colour})
	}
}

// drawEvents writes events in two rows, so that neighbours do not cover each other.
func drawEvents(c canvas, events []Event, x axis, top, bottom float64) {
	ends := [2]float64{math.Inf(-1), math.Inf(-1)}
	for _, e := range events {
		at := x.place(time.Duration(e.At).Seconds())
		c.line([]point{{at, top + 2}, {at, bottom}}, 1, true, black)
		row := 0
		if ends[0] > at-2 && ends[1] <= ends[0] {
			row = 1
		}
		if ends[row] > at-2 {
			continue // there is no room for its name
		}
		ends[row] = at + 6.2*float64(len(e.What)) + 10
		c.text(point{at + 4, top + 2 - 14*float64(row) + 8}, e.What, textStyle{size: 11, c: black})
	}
}
