package bench

import (
	"cmp"
	"slices"
)

// Summary is several runs of one workload on one system.
type Summary struct {
	Runs []*Result // in the order in which they were made
}

// Spread is a figure of several runs.
type Spread struct{ Median, Min, Max float64 }

// Summarize puts the runs of one workload, system, mode and load together, in the order in which each comes first.
func Summarize(results []*Result) []Summary {
	type key struct {
		system, workload, mode  string
		nodes, callers, objects int
		rate                    float64
	}
	var all []Summary
	at := map[key]int{}
	for _, r := range results {
		k := key{r.System, r.Workload, r.Mode, r.Nodes, r.Callers, r.Objects, r.Rate}
		i, ok := at[k]
		if !ok {
			i = len(all)
			at[k], all = i, append(all, Summary{})
		}
		all[i].Runs = append(all[i].Runs, r)
	}
	return all
}

// Of is the spread of what f reads from each run. The median of an even number of runs is the mean of the two in the middle.
func (s Summary) Of(f func(*Result) float64) Spread {
	var v []float64
	for _, r := range s.Runs {
		v = append(v, f(r))
	}
	return spreadOf(v)
}

func spreadOf(v []float64) Spread {
	if len(v) == 0 {
		return Spread{}
	}
	slices.SortFunc(v, cmp.Compare[float64])
	n := len(v)
	return Spread{(v[(n-1)/2] + v[n/2]) / 2, v[0], v[n-1]}
}

// Figures are those of the runs under their names, in the order of the first run that has them.
func (s Summary) Figures() (names, units []string, spreads []Spread) {
	values := map[string][]float64{}
	for _, r := range s.Runs {
		for _, f := range r.Figures {
			if _, ok := values[f.Name]; !ok {
				names, units = append(names, f.Name), append(units, f.Unit)
			}
			values[f.Name] = append(values[f.Name], f.Value)
		}
	}
	for _, n := range names {
		spreads = append(spreads, spreadOf(values[n]))
	}
	return names, units, spreads
}

// OK reports whether no run's check failed.
func (s Summary) OK() bool {
	return !slices.ContainsFunc(s.Runs, func(r *Result) bool { return r.Check != nil && !r.Check.OK })
}

// name is the workload with its variant.
func (r *Result) name() string {
	if r.Mode == "" {
		return r.Workload
	}
	return r.Workload + " " + r.Mode
}
