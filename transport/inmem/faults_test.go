package inmem_test

import (
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ringfence/ringfence/transport/inmem"
)

func TestCut(t *testing.T) {
	virtual(t, "what is written waits", func(t *testing.T, w *world) {
		c, d := w.pair()
		w.n.Cut(w.a, w.b)
		write(t, c, "one ")
		write(t, c, "two")
		silent(t, d)
		w.n.Heal(w.a, w.b)
		read(t, d, "one two")
		write(t, d, "three")
		read(t, c, "three")
	})
	virtual(t, "one way", func(t *testing.T, w *world) {
		c, d := w.pair()
		w.n.CutOneWay(w.a, w.b)
		write(t, d, "heard")
		read(t, c, "heard")
		write(t, c, "not heard")
		silent(t, d)
		w.n.Heal(w.a, w.b)
		read(t, d, "not heard")
	})
	virtual(t, "a stream gives up after 10 s, the other end does not know", func(t *testing.T, w *world) {
		c, d := w.pair()
		w.n.Cut(w.a, w.b)
		write(t, c, "lost")
		began := time.Now()
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ETIMEDOUT) || time.Since(began) != 10*time.Second {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		silent(t, d)
		w.n.Heal(w.a, w.b)
		silent(t, d)
		write(t, d, "x")
		if _, err := d.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the other end, once it has written: %v", err)
		}
	})
	virtual(t, "one way, what is not acknowledged ends its stream", func(t *testing.T, w *world) {
		c, d := w.pair()
		w.n.CutOneWay(w.b, w.a)
		write(t, c, "arrives")
		read(t, d, "arrives")
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ETIMEDOUT) {
			t.Errorf("%v", err)
		}
	})
	virtual(t, "a short cut ends nothing", func(t *testing.T, w *world) {
		c, d := w.pair()
		for range 5 {
			w.n.Cut(w.a, w.b)
			write(t, c, "x")
			time.Sleep(9 * time.Second)
			w.n.Heal(w.a, w.b)
			read(t, d, "x")
			time.Sleep(9 * time.Second)
		}
	})
	virtual(t, "of others", func(t *testing.T, w *world) {
		third, err := w.n.Host("10.0.0.3")
		if err != nil {
			t.Fatal(err)
		}
		w.n.Cut(w.b, third)
		c, d := w.pair()
		write(t, c, "x")
		read(t, d, "x")
		if n := w.n.Reset(third, w.b); n != 0 {
			t.Errorf("%d streams were reset", n)
		}
	})
}

func TestUnplug(t *testing.T) {
	virtual(t, "as a cut from all, but not from itself", func(t *testing.T, w *world) {
		c, d := w.pair()
		own, err := w.b.Dial(t.Context(), addr)
		if err != nil {
			t.Fatal(err)
		}
		inside, _ := w.ln.Accept()
		w.b.Unplug()
		write(t, c, "x")
		silent(t, d)
		write(t, own, "y")
		read(t, inside, "y")
		w.n.Heal(w.a, w.b) // heals no plug
		silent(t, d)
		w.b.Plug()
		read(t, d, "x")
	})
}

func TestDelay(t *testing.T) {
	virtual(t, "keeps the order of a stream", func(t *testing.T, w *world) {
		c, d := w.pair()
		w.n.Delay(w.a, w.b, 10*time.Millisecond, 50*time.Millisecond)
		var want []byte
		began := time.Now()
		for i := range 100 {
			want = append(want, byte(i))
			write(t, c, string([]byte{byte(i)}))
		}
		_ = c.Close()
		got, err := io.ReadAll(d)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%v, %v", got, err)
		}
		if took := time.Since(began); took < 10*time.Millisecond || took > 50*time.Millisecond {
			t.Errorf("after %v", took)
		}
	})
	virtual(t, "packets may overtake", func(t *testing.T, w *world) {
		p, q := packets(t, w)
		w.n.Delay(w.a, w.b, 10*time.Millisecond, 50*time.Millisecond)
		for i := range 100 {
			_, _ = p.WriteTo([]byte{byte(i)}, q.LocalAddr())
		}
		var got []byte
		for b := make([]byte, 1); len(got) < 100; got = append(got, b[0]) {
			if _, _, err := q.ReadFrom(b); err != nil {
				t.Fatal(err)
			}
		}
		if slices.IsSorted(got) {
			t.Error("100 packets with delays of their own came in order")
		}
	})
	t.Run("is drawn by the seed", func(t *testing.T) {
		draw := func(seed uint64) (out []time.Duration) {
			synctest.Test(t, func(t *testing.T) {
				n := inmem.New(seed)
				a, err := n.Host("10.0.0.1")
				b, err2 := n.Host("10.0.0.2")
				if err := errors.Join(err, err2); err != nil {
					t.Fatal(err)
				}
				p, q := packets(t, &world{a: a, b: b})
				n.Delay(a, b, 0, time.Second)
				for range 10 {
					began := time.Now()
					_, _ = p.WriteTo([]byte("x"), q.LocalAddr())
					_, _, _ = q.ReadFrom(make([]byte, 1))
					out = append(out, time.Since(began))
				}
			})
			return out
		}
		if one, again, other := draw(1), draw(1), draw(2); !slices.Equal(one, again) || slices.Equal(one, other) {
			t.Errorf("seed 1: %v and %v, seed 2: %v", one, again, other)
		}
	})
}

func TestReset(t *testing.T) {
	virtual(t, "both ends hear of it", func(t *testing.T, w *world) {
		c, d := w.pair()
		write(t, c, "x")
		if n := w.n.Reset(w.b, w.a); n != 1 {
			t.Errorf("%d streams", n)
		}
		read(t, d, "x") // had arrived
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("Read: %v", err)
		}
		if _, err := d.Write([]byte("x")); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("Write: %v", err)
		}
		if err := errors.Join(c.Close(), d.Close()); err != nil {
			t.Error(err)
		}
	})
}

func TestPower(t *testing.T) {
	virtual(t, "silence, then resets", func(t *testing.T, w *world) {
		c, d := w.pair()
		p, q := packets(t, w)
		waiting := make(chan error, 2)
		go func() { _, err := d.Read(make([]byte, 1)); waiting <- err }()
		go func() { _, err := w.ln.Accept(); waiting <- err }()
		synctest.Wait()
		w.b.PowerOff()
		for range 2 {
			if err := <-waiting; err == nil {
				t.Error("something came on a machine that is off")
			}
		}
		silent(t, c)
		time.Sleep(time.Minute)
		silent(t, c)
		_, _ = p.WriteTo([]byte("x"), q.LocalAddr())
		if _, err := w.b.Listen(addr); !errors.Is(err, syscall.ENETDOWN) {
			t.Errorf("Listen while off: %v", err)
		}
		if _, err := w.b.Dial(t.Context(), "10.0.0.1:80"); !errors.Is(err, syscall.ENETUNREACH) {
			t.Errorf("Dial while off: %v", err)
		}
		w.b.PowerOn()
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the other end, when the machine is on again: %v", err)
		}
		if _, err := w.a.Dial(t.Context(), addr); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("before anything listens: %v", err)
		}
		if _, err := w.b.Listen(addr); err != nil {
			t.Error(err)
		}
	})
	virtual(t, "what was on its way from there is lost", func(t *testing.T, w *world) {
		c, d := w.pair()
		e, f := w.pair()
		w.b.Unplug()
		write(t, d, "ghost")
		write(t, f, "ghost")
		_ = f.Close()
		w.b.PowerOff()
		w.b.Plug()
		w.b.PowerOn()
		for _, end := range []net.Conn{c, e} {
			if b, err := io.ReadAll(end); len(b) > 0 || !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("%q, %v", b, err)
			}
		}
	})
	virtual(t, "who writes gives up", func(t *testing.T, w *world) {
		c, _ := w.pair()
		w.b.PowerOff()
		write(t, c, "x")
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ETIMEDOUT) {
			t.Error(err)
		}
		if _, err := c.Write([]byte("x")); errors.Is(err, os.ErrDeadlineExceeded) || err == nil {
			t.Error(err)
		}
	})
}
