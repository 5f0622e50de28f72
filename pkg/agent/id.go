// Package agent is the vocabulary that every other package speaks: who an agent
// is, what a call to it says, what comes back, and how a failure is classified.
//
// It imports the standard library only and holds no behaviour beyond parsing and
// validation, so that any package may depend on it.
package agent

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// DefaultNamespace is the tenant of a call that names none.
const DefaultNamespace = "default"

// Limits of the parts of an ID, in bytes.
const (
	MaxNamespaceBytes = 63
	MaxClassBytes     = 128
	MaxNameBytes      = 512
)

// ID names one agent in the cluster: a tenant, a deployed class and a name that
// the caller chose. The zero ID is invalid.
type ID struct {
	Namespace string // [a-z0-9-], 1 to 63 bytes, no leading or trailing dash
	Class     string // a JavaScript identifier in ASCII, 1 to 128 bytes
	Name      string // opaque UTF-8 without NUL, 1 to 512 bytes
}

// ParseID reads the text form "Class/name" inside a namespace. The name may hold
// further slashes.
func ParseID(namespace, text string) (ID, error) {
	class, name, ok := strings.Cut(text, "/")
	if !ok {
		return ID{}, &Error{Op: "parse agent ID", Kind: Invalid,
			Msg: fmt.Sprintf("%q is not an agent ID: write Class/name, for example Counter/a", text)}
	}
	id := ID{Namespace: namespace, Class: class, Name: name}
	return id, id.Validate()
}

// ParseKey reads what Key wrote.
func ParseKey(key string) (ID, error) {
	namespace, rest, ok := strings.Cut(key, "/")
	if !ok {
		return ID{}, &Error{Op: "parse agent key", Kind: Invalid, Msg: fmt.Sprintf("%q has no namespace", key)}
	}
	return ParseID(namespace, rest)
}

// String is the text form inside the namespace: "Class/name".
func (id ID) String() string { return id.Class + "/" + id.Name }

// Key is unique across namespaces: "namespace/Class/name". Neither of the first
// two parts can hold a slash.
func (id ID) Key() string { return id.Namespace + "/" + id.Class + "/" + id.Name }

// IsZero says whether no part is set.
func (id ID) IsZero() bool { return id == ID{} }

// Validate returns an *Error of kind Invalid that names the offending part.
func (id ID) Validate() error {
	if err := ValidateNamespace(id.Namespace); err != nil {
		return err
	}
	if err := ValidateClass(id.Class); err != nil {
		return err
	}
	return validateName(id)
}

// ValidateNamespace checks the tenant part of an ID.
func ValidateNamespace(namespace string) error {
	bad := func(why string) error {
		return &Error{Op: "validate namespace", Kind: Invalid, Msg: fmt.Sprintf("namespace %.80q %s", namespace, why)}
	}
	switch {
	case namespace == "":
		return bad("is empty")
	case len(namespace) > MaxNamespaceBytes:
		return bad(fmt.Sprintf("has %d bytes; at most %d are allowed", len(namespace), MaxNamespaceBytes))
	case namespace[0] == '-' || namespace[len(namespace)-1] == '-':
		return bad("begins or ends with a dash")
	}
	for i := 0; i < len(namespace); i++ {
		c := namespace[i]
		if c != '-' && (c < '0' || c > '9') && (c < 'a' || c > 'z') {
			return bad("may hold only a-z, 0-9 and dashes")
		}
	}
	return nil
}

// ValidateClass checks the class part of an ID.
func ValidateClass(class string) error {
	bad := func(why string) error {
		return &Error{Op: "validate class", Kind: Invalid, Msg: fmt.Sprintf("class name %.160q %s", class, why)}
	}
	switch {
	case class == "":
		return bad("is empty")
	case len(class) > MaxClassBytes:
		return bad(fmt.Sprintf("has %d bytes; at most %d are allowed", len(class), MaxClassBytes))
	}
	for i := 0; i < len(class); i++ {
		c := class[i]
		letter := c == '_' || c == '$' || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')
		if !letter && (i == 0 || c < '0' || c > '9') {
			return bad("is not a JavaScript identifier in ASCII")
		}
	}
	return nil
}

func validateName(id ID) error {
	bad := func(why string) error {
		return &Error{Op: "validate agent name", Kind: Invalid, Msg: "agent name " + why}
	}
	switch {
	case id.Name == "":
		return bad("is empty")
	case len(id.Name) > MaxNameBytes:
		return bad(fmt.Sprintf("has %d bytes; at most %d are allowed", len(id.Name), MaxNameBytes))
	case !utf8.ValidString(id.Name):
		return bad("is not valid UTF-8")
	case strings.IndexByte(id.Name, 0) >= 0:
		return bad("holds a NUL byte")
	}
	return nil
}
