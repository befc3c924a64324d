package bench

import (
	"bytes"
	"encoding/xml"
	"errors"
	"image"
	"image/png"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// plotted is a result with latencies, failures and events.
func plotted(t *testing.T, workload string) *Result {
	r := testResult(1, 1000)
	r.Workload = workload
	h := newHistogram()
	for i := range int64(10_000) {
		if err := h.RecordValue(100 + i*i/1000); err != nil {
			t.Fatal(err)
		}
	}
	b, err := h.Encode(hdrhistogram.V2CompressedEncodingCookieBase)
	if err != nil {
		t.Fatal(err)
	}
	r.Latencies = string(b)
	r.Series = &Series{Step: Seconds(time.Second), OK: []int64{9, 8, 0, 7, 5}, Failed: []int64{0, 0, 3, 0, 0}, P99: []Micros{10, 20, 0, 30, 5}, Max: []Micros{50, 60, 0, 70, 100},
		Events: []Event{{Seconds(2 * time.Second), `kill "node" <2> & more`}, {Seconds(2100 * time.Millisecond), "second"}, {Seconds(2200 * time.Millisecond), "third"}}}
	r.Phases = []Phase{{Name: "calm", To: Seconds(2 * time.Second)}, {Name: "out", From: Seconds(2 * time.Second), To: Seconds(10 * time.Second)}}
	return r
}

// many are so many workloads that they need two panels, one of them with events, and one without any latency.
func many(t *testing.T) []*Result {
	all := []*Result{plotted(t, "kill")}
	for _, name := range strings.Fields("a b c d e f g h i") {
		r := plotted(t, name)
		r.Series = nil
		all = append(all, r)
	}
	all[5].Latencies = ""
	return all
}

func TestPlotSVG(t *testing.T) {
	var b bytes.Buffer
	if err := WriteSVG(&b, many(t)); err != nil {
		t.Fatal(err)
	}
	texts, names := map[string]bool{}, map[string]int{}
	for d := xml.NewDecoder(&b); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		switch e := token.(type) {
		case xml.StartElement:
			names[e.Name.Local]++
		case xml.CharData:
			texts[string(e)] = true
		}
	}
	for _, want := range []string{`kill "node" <2> & more`, "second", "99.9%", "calm", "failed", "i increment", "1 s", "kill increment on ringfence, run 1"} {
		if !texts[want] {
			t.Errorf("the picture does not say %q", want)
		}
	}
	if names["svg"] != 1 || names["path"] < 30 {
		t.Errorf("elements %v", names)
	}
}

func TestPlotPNG(t *testing.T) {
	var b bytes.Buffer
	if err := WritePNG(&b, many(t)[:8]); err != nil {
		t.Fatal(err)
	}
	img, err := png.Decode(&b)
	if err != nil {
		t.Fatal(err)
	}
	rgba, ok := img.(*image.RGBA)
	if !ok {
		t.Fatalf("it is a %T", img)
	}
	drawn := map[[3]byte]int{}
	for i := 0; i < len(rgba.Pix); i += 4 {
		drawn[[3]byte(rgba.Pix[i:i+3])]++
	}
	for _, c := range []ink{white, blue, red, grey, colours[7]} {
		if drawn[[3]byte{c.r, c.g, c.b}] < 50 {
			t.Errorf("hardly anything is drawn in %s", c.hex())
		}
	}
}

func TestPlotRefuses(t *testing.T) {
	if err := WriteSVG(io.Discard, nil); err == nil {
		t.Error("nothing was drawn without an error")
	}
	r := plotted(t, "kill")
	r.Latencies = "no histogram"
	if err := WritePNG(io.Discard, []*Result{r}); err == nil || !strings.Contains(err.Error(), "latencies_hdr is no histogram") {
		t.Errorf("got %v", err)
	}
}
