package actor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"testing"
)

func TestErrorText(t *testing.T) {
	if ErrMoved.Error() != "cannot access storage because object has moved to a different machine" {
		t.Errorf("ErrMoved: %v", ErrMoved)
	}
	for _, c := range []struct {
		e    *Error
		want string
	}{
		{&Error{Code: CodeMoved, Object: ID{"Counter", "a"}, Epoch: 3, Token: 17}, MovedText + " [Counter/a, epoch 3, token 17]"},
		{&Error{Code: CodeOverloaded, Message: "full", Object: ID{"C", "k"}}, "full [C/k]"},
		{&Error{Code: CodeApp, App: "sold-out", Message: "none left"}, "sold-out: none left"},
		{&Error{Code: 999}, "code 999"},
		{&Error{}, "code 0"},
	} {
		if got := c.e.Error(); got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
}

func TestErrorIs(t *testing.T) {
	cause := errors.New("cause")
	moved := fmt.Errorf("wrapped: %w", (&Error{Code: CodeMoved, Message: "x"}).WithCause(cause))
	if !errors.Is(moved, ErrMoved) || errors.Is(moved, ErrNotOwner) || !errors.Is(moved, cause) {
		t.Error("errors.Is does not go by code, or not on to the cause")
	}
	sold := Fail("sold-out", "only %d left", 2)
	if !errors.Is(sold, Fail("sold-out", "")) || errors.Is(sold, Fail("other", "")) || !errors.Is(sold, Fail("", "")) {
		t.Error("application errors are not told apart by name")
	}
	if sold.Error() != "sold-out: only 2 left" {
		t.Error(sold)
	}
	if !errors.Is(&Error{Code: CodeDeadline}, context.DeadlineExceeded) || !errors.Is(&Error{Code: CodeCanceled}, context.Canceled) ||
		errors.Is(&Error{Code: CodeMoved}, context.Canceled) {
		t.Error("context errors")
	}
}

// The numbers are on the wire: the package's table, which users read, must say what the code says.
func TestTableOfCodes(t *testing.T) {
	doc, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	rows := regexp.MustCompile(`(?m)^//\t *(\d+) (Code\w+) +(\S+) +(\S+) +(\S[-romx() ]*?)  +(\S.*); do: (\S.*)$`).FindAllStringSubmatch(string(doc), -1)
	if len(rows) != len(codes)-1 {
		t.Fatalf("the table has %d rows for %d codes", len(rows), len(codes)-1)
	}
	src, err := os.ReadFile("errors.go")
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range rows {
		if r[1] != fmt.Sprint(i+1) || codes[i+1].name == "" || codes[i+1].text == "" {
			t.Errorf("row %d: %q", i+1, r[0])
		}
		if !regexp.MustCompile(r[2] + ` +Code = ` + r[1] + `\n`).Match(src) {
			t.Errorf("%s is not %s in errors.go", r[2], r[1])
		}
		if !regexp.MustCompile(`^(any|DidNotRun|MayHaveRun|Ran)$`).MatchString(r[4]) {
			t.Errorf("%s has the outcome %s", r[2], r[4])
		}
		if !regexp.MustCompile(`^(-|[romx]( [romx])*)?( ?\([romx]( [romx])*\))?$`).MatchString(r[5]) {
			t.Errorf("%s has the flags %q", r[2], r[5])
		}
		if r[3] != "–" && !regexp.MustCompile(r[3]+` +error = &Error\{Code: `+r[2]+`\}`).Match(src) {
			t.Errorf("%s is not the sentinel of %s", r[3], r[2])
		}
	}
}

func TestOutcome(t *testing.T) {
	for o, want := range map[Outcome]string{0: "may have run", DidNotRun: "did not run", MayHaveRun: "may have run", Ran: "ran", 9: "may have run"} {
		if o.String() != want {
			t.Errorf("%d: %s", o, o)
		}
	}
}
