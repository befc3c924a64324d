package bench

import (
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"io"
	"math"

	"golang.org/x/image/font"
	"golang.org/x/image/font/gofont/gobold"
	"golang.org/x/image/font/gofont/goregular"
	"golang.org/x/image/font/opentype"
	"golang.org/x/image/math/fixed"
	"golang.org/x/image/vector"
)

// pngScale is how many pixels stand for one unit.
const pngScale = 2

// raster is a canvas of pixels.
type raster struct {
	img   *image.RGBA
	faces map[faceKey]font.Face
	err   error // the first of a font
}

type faceKey struct {
	size float64
	bold bool
}

func newPNG(width, height float64) *raster {
	img := image.NewRGBA(image.Rect(0, 0, int(math.Ceil(width*pngScale)), int(math.Ceil(height*pngScale))))
	draw.Draw(img, img.Bounds(), image.White, image.Point{}, draw.Src)
	return &raster{img: img, faces: map[faceKey]font.Face{}}
}

func (c ink) colour() color.Color {
	return color.NRGBA{c.r, c.g, c.b, uint8(math.Round(255 * c.alpha))}
}

// shapes fills polygons in one go, so that where they overlap they do not cover twice. All must turn the same way.
func (r *raster) shapes(all [][]point, c ink) {
	left, top, right, bottom := math.Inf(1), math.Inf(1), math.Inf(-1), math.Inf(-1)
	for _, shape := range all {
		for _, p := range shape {
			left, right = min(left, p.x*pngScale), max(right, p.x*pngScale)
			top, bottom = min(top, p.y*pngScale), max(bottom, p.y*pngScale)
		}
	}
	box := image.Rect(int(math.Floor(left))-1, int(math.Floor(top))-1, int(math.Ceil(right))+1, int(math.Ceil(bottom))+1).Intersect(r.img.Bounds())
	if box.Empty() {
		return
	}
	z := vector.NewRasterizer(box.Dx(), box.Dy())
	for _, shape := range all {
		for i, p := range shape {
			x, y := float32(p.x*pngScale-float64(box.Min.X)), float32(p.y*pngScale-float64(box.Min.Y))
			if i == 0 {
				z.MoveTo(x, y)
			} else {
				z.LineTo(x, y)
			}
		}
		z.ClosePath()
	}
	z.Draw(r.img, box, image.NewUniform(c.colour()), image.Point{})
}

func (r *raster) fill(shape []point, c ink) {
	if len(shape) > 2 {
		r.shapes([][]point{shape}, c)
	}
}

const dash, gap = 4.0, 3.0

func (r *raster) line(path []point, width float64, dashed bool, c ink) {
	var all [][]point
	for i := 1; i < len(path); i++ {
		a, b := path[i-1], path[i]
		if !dashed {
			all = append(all, stroke(a, b, width)...)
			continue
		}
		length := math.Hypot(b.x-a.x, b.y-a.y)
		for at := 0.0; at < length; at += dash + gap {
			all = append(all, stroke(between(a, b, at/length), between(a, b, min(1, (at+dash)/length)), width)[:1]...)
		}
	}
	if len(all) > 0 {
		r.shapes(all, c)
	}
}

func between(a, b point, f float64) point { return point{a.x + f*(b.x-a.x), a.y + f*(b.y-a.y)} }

// stroke is a segment as a rectangle, and a round end at its second point, both turning the same way.
func stroke(a, b point, width float64) [][]point {
	length := math.Hypot(b.x-a.x, b.y-a.y)
	if length == 0 {
		return [][]point{round(b, width/2)}
	}
	nx, ny := -(b.y-a.y)/length*width/2, (b.x-a.x)/length*width/2
	return [][]point{{{a.x + nx, a.y + ny}, {a.x - nx, a.y - ny}, {b.x - nx, b.y - ny}, {b.x + nx, b.y + ny}}, round(b, width/2)}
}

func round(at point, radius float64) []point {
	const corners = 10
	var all []point
	for i := range corners {
		angle := 2 * math.Pi * float64(i) / corners
		all = append(all, point{at.x + radius*math.Cos(angle), at.y + radius*math.Sin(angle)})
	}
	return all
}

func (r *raster) face(size float64, bold bool) font.Face {
	key := faceKey{size, bold}
	if f, ok := r.faces[key]; ok {
		return f
	}
	ttf := goregular.TTF
	if bold {
		ttf = gobold.TTF
	}
	parsed, err := opentype.Parse(ttf)
	var f font.Face
	if err == nil {
		f, err = opentype.NewFace(parsed, &opentype.FaceOptions{Size: size * pngScale, DPI: 72, Hinting: font.HintingFull})
	}
	if err != nil {
		r.err = err
		return nil
	}
	r.faces[key] = f
	return f
}

func (r *raster) text(at point, s string, t textStyle) {
	face := r.face(t.size, t.bold)
	if face == nil {
		return
	}
	width := font.MeasureString(face, s).Ceil()
	if !t.turned {
		d := font.Drawer{Dst: r.img, Src: image.NewUniform(t.c.colour()), Face: face,
			Dot: fixed.P(int(at.x*pngScale-t.align*float64(width)), int(at.y*pngScale))}
		d.DrawString(s)
		return
	}
	m := face.Metrics()
	height := (m.Ascent + m.Descent).Ceil()
	flat := image.NewRGBA(image.Rect(0, 0, width, height))
	d := font.Drawer{Dst: flat, Src: image.NewUniform(t.c.colour()), Face: face, Dot: fixed.P(0, m.Ascent.Ceil())}
	d.DrawString(s)
	up := image.NewRGBA(image.Rect(0, 0, height, width))
	for x := range width {
		for y := range height {
			up.Set(y, width-1-x, flat.At(x, y))
		}
	}
	corner := image.Pt(int(at.x*pngScale)-m.Ascent.Ceil(), int(at.y*pngScale-(1-t.align)*float64(width)))
	draw.Draw(r.img, up.Bounds().Add(corner), up, image.Point{}, draw.Over)
}

func (r *raster) writeTo(w io.Writer) error {
	if r.err != nil {
		return r.err
	}
	return png.Encode(w, r.img)
}
