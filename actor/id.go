package actor

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// Limits of an ID's parts.
const (
	MaxClassBytes = 64
	MaxKeyBytes   = 1024
)

// ID names an object. There is nothing to create: every valid ID can be called.
type ID struct {
	Class string // [A-Za-z][A-Za-z0-9_]{0,63}
	Key   string // 1 to 1,024 bytes of UTF-8 without NUL; may contain '/'
}

// String is the text form Class/Key.
func (id ID) String() string { return id.Class + "/" + id.Key }

// IsZero reports whether id is the ID of no object.
func (id ID) IsZero() bool { return id == ID{} }

// ParseID reads the text form: it splits at the first '/' and validates.
func ParseID(s string) (ID, error) {
	class, key, ok := strings.Cut(s, "/")
	if !ok {
		return ID{}, badArgument("object %.100q: want CLASS/KEY, for example Counter/orders", s)
	}
	id := ID{class, key}
	return id, id.Validate()
}

// Validate returns an error that names the fault and the rule, with code CodeBadArgument.
func (id ID) Validate() error {
	if err := ValidateClass(id.Class); err != nil {
		return err
	}
	switch {
	case id.Key == "":
		return badArgument("object %s/: the key is empty: want 1 to %d bytes", id.Class, MaxKeyBytes)
	case len(id.Key) > MaxKeyBytes:
		return badArgument("object %s/%.40s…: the key has %d bytes: want at most %d", id.Class, id.Key, len(id.Key), MaxKeyBytes)
	case strings.IndexByte(id.Key, 0) >= 0:
		return badArgument("object %s/%.100q: the key contains a NUL byte, which keys may not", id.Class, id.Key)
	case !utf8.ValidString(id.Key):
		return badArgument("object %s/%.100q: the key is not UTF-8", id.Class, id.Key)
	}
	return nil
}

// ValidateClass is the part of ID.Validate that concerns a class's name.
func ValidateClass(class string) error {
	ok := len(class) >= 1 && len(class) <= MaxClassBytes
	for i := 0; ok && i < len(class); i++ {
		c := class[i]
		letter := c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z'
		ok = letter || i > 0 && (c >= '0' && c <= '9' || c == '_')
	}
	if !ok {
		return badArgument("class %.100q: want a letter and then up to %d letters, digits or underscores", class, MaxClassBytes-1)
	}
	return nil
}

func badArgument(format string, args ...any) error {
	return &Error{Code: CodeBadArgument, Outcome: DidNotRun, Message: fmt.Sprintf(format, args...)}
}
