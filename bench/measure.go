package bench

import (
	"context"
	"errors"
	"fmt"
)

// Spec is one workload on one system, as Measure takes it.
type Spec struct {
	System   string // as tables name it
	Workload string
	Mode     string // variant of the workload, may be empty
	Nodes    int    // local processes that were started for it; 0: it ran already
	Conns    int    // to each node
	Load     Load
	Hooks    Hooks
	// Open makes a fresh target for each run.
	Open func(ctx context.Context) (Target, error)
	// Finish, if set, adds figures to a run's result, before the target is closed.
	Finish func(ctx context.Context, t Target, r *Result) error
}

// Measure drives a workload the given number of times, each time on a target of its own. When it fails it returns the runs that it has.
func Measure(ctx context.Context, m Machine, s Spec, runs int) ([]*Result, error) {
	var results []*Result
	for i := range runs {
		r, err := s.run(ctx)
		if r != nil {
			r.Machine, r.System, r.Workload, r.Mode, r.Run, r.Nodes, r.Conns = m, s.System, s.Workload, s.Mode, i+1, s.Nodes, s.Conns
			results = append(results, r)
		}
		if err != nil {
			return results, fmt.Errorf("workload %s, run %d: %w", s.Workload, i+1, err)
		}
	}
	return results, nil
}

func (s *Spec) run(ctx context.Context) (*Result, error) {
	t, err := s.Open(ctx)
	if err != nil {
		return nil, err
	}
	r, err := Drive(ctx, t, s.Load, s.Hooks)
	if err == nil && s.Finish != nil {
		err = s.Finish(ctx, t, r)
	}
	return r, errors.Join(err, t.Close())
}

// Wrong is an error that names every run whose check failed, nil if none did.
func Wrong(results []*Result) error {
	var all []error
	for _, r := range results {
		if r.Check != nil && !r.Check.OK {
			all = append(all, fmt.Errorf("%s on %s, run %d: %v", r.name(), r.System, r.Run, r.Check))
		}
	}
	return errors.Join(all...)
}
