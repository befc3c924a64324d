package bench

import (
	"encoding/xml"
	"fmt"
	"io"
	"strings"
)

// svg is a canvas that writes SVG.
type svg struct {
	width, height float64
	b             strings.Builder
}

func newSVG(width, height float64) *svg { return &svg{width: width, height: height} }

func (c ink) hex() string { return fmt.Sprintf("#%02x%02x%02x", c.r, c.g, c.b) }

func pathOf(points []point) string {
	var b strings.Builder
	for i, p := range points {
		letter := 'L'
		if i == 0 {
			letter = 'M'
		}
		fmt.Fprintf(&b, "%c%.1f %.1f", letter, p.x, p.y)
	}
	return b.String()
}

func (s *svg) fill(shape []point, c ink) {
	fmt.Fprintf(&s.b, "<path d=\"%sZ\" fill=\"%s\" fill-opacity=\"%.3g\"/>\n", pathOf(shape), c.hex(), c.alpha)
}

func (s *svg) line(path []point, width float64, dashed bool, c ink) {
	if len(path) < 2 {
		return
	}
	dash := ""
	if dashed {
		dash = " stroke-dasharray=\"4 3\""
	}
	fmt.Fprintf(&s.b, "<path d=\"%s\" fill=\"none\" stroke=\"%s\" stroke-width=\"%.1f\" stroke-linejoin=\"round\"%s/>\n", pathOf(path), c.hex(), width, dash)
}

func (s *svg) text(at point, text string, t textStyle) {
	anchor, weight, turn := "start", "", ""
	switch t.align {
	case 0.5:
		anchor = "middle"
	case 1:
		anchor = "end"
	}
	if t.bold {
		weight = " font-weight=\"bold\""
	}
	if t.turned {
		turn = fmt.Sprintf(" transform=\"rotate(-90 %.1f %.1f)\"", at.x, at.y)
	}
	fmt.Fprintf(&s.b, "<text x=\"%.1f\" y=\"%.1f\" font-size=\"%.0f\" text-anchor=\"%s\" fill=\"%s\"%s%s>", at.x, at.y, t.size, anchor, t.c.hex(), weight, turn)
	_ = xml.EscapeText(&s.b, []byte(text)) // a Builder takes all
	s.b.WriteString("</text>\n")
}

func (s *svg) writeTo(w io.Writer) error {
	_, err := fmt.Fprintf(w, "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%.0f\" height=\"%.0f\" viewBox=\"0 0 %[1]g %[2]g\" font-family=\"Helvetica, Arial, sans-serif\">\n"+
		"<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n%s</svg>\n", s.width, s.height, s.b.String())
	return err
}
