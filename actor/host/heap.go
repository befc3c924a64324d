package host

// heldHeap is a binary heap of what waits for proof, that which started first on top. Both things that prove (a later round, a later batch) do
// for an event only if they do for all that started before it: so whoever can go is on top.
type heldHeap []*held

func startedBefore(a, b *held) bool {
	return a.after < b.after || a.after == b.after && a.round < b.round
}

func (p *heldHeap) push(x *held) {
	h := append(*p, x)
	*p = h
	for i := len(h) - 1; i > 0; {
		up := (i - 1) / 2
		if !startedBefore(h[i], h[up]) {
			return
		}
		h[up], h[i] = h[i], h[up]
		i = up
	}
}

func (p *heldHeap) pop() *held {
	h := *p
	top, last := h[0], len(h)-1
	h[0], h[last] = h[last], nil
	h = h[:last]
	*p = h
	for i := 0; ; {
		least := i
		for down := 2*i + 1; down <= 2*i+2 && down < len(h); down++ {
			if startedBefore(h[down], h[least]) {
				least = down
			}
		}
		if least == i {
			return top
		}
		h[i], h[least] = h[least], h[i]
		i = least
	}
}
