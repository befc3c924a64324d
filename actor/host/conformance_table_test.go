package host

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// testNames are the tests of the module, by what their files say.
func testNames(t *testing.T) map[string][]string {
	t.Helper()
	decl := regexp.MustCompile(`(?m)^func (Test\w+)\(t \*testing\.T\)`)
	files := map[string][]string{}
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		src, err := os.ReadFile(path)
		for _, m := range decl.FindAllSubmatch(src, -1) {
			files[string(m[1])] = append(files[string(m[1])], filepath.Dir(path))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// TestTableOfRows: every row of the conformance list stands in actor/DESIGN.md once, with a state, and the tests that it names exist; those that
// are called Conformance bear its number.
func TestTableOfRows(t *testing.T) {
	doc, err := os.ReadFile("../DESIGN.md")
	if err != nil {
		t.Fatal(err)
	}
	tests, named := testNames(t), regexp.MustCompile("`(Test\\w+)`")
	numbers := map[string]string{} // by directory: the conformance tests there
	states := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^\| (C-\d+) \| [^|]+ \| ([^|]+) \|$`).FindAllStringSubmatch(string(doc), -1) {
		row, state := m[1], m[2]
		if states[row] != "" {
			t.Errorf("%s stands there twice", row)
		}
		states[row] = state
		kind, why, ok := strings.Cut(state, ": ")
		if !ok || why == "" || !regexp.MustCompile(`^(tested|different|later work|left out)$`).MatchString(kind) {
			t.Errorf("%s: %q is no state", row, state)
		}
		names := named.FindAllStringSubmatch(state, -1)
		if kind == "tested" && len(names) == 0 {
			t.Errorf("%s is tested, and no test is named", row)
		}
		for _, n := range names {
			dirs := tests[n[1]]
			if len(dirs) == 0 {
				t.Errorf("%s: there is no test %s", row, n[1])
			}
			borne := !strings.HasPrefix(n[1], "TestConformance")
			for _, dir := range dirs {
				if numbers[dir] == "" {
					numbers[dir] = conformanceSource(t, dir)
				}
				borne = borne || strings.Contains(numbers[dir], row)
			}
			if !borne {
				t.Errorf("%s: no test in %v bears the number", row, dirs)
			}
		}
	}
	for i := 1; i <= 108; i++ {
		if row := fmt.Sprintf("C-%02d", i); states[row] == "" {
			t.Errorf("%s is missing", row)
		} else {
			delete(states, row)
		}
	}
	for row := range states {
		t.Errorf("%s is no row", row)
	}
}

// conformanceSource is all test files of a directory that have conformance tests.
func conformanceSource(t *testing.T, dir string) (all string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		src, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasSuffix(f, "_table_test.go") && strings.Contains(string(src), "C-") {
			all += string(src)
		}
	}
	return all
}
