package watch

import (
	"strings"
	"testing"
)

// A name that no resolver could find is refused where it is read, with the
// entry that has it, and not by each proxy.
func TestHostname(t *testing.T) {
	label := strings.Repeat("a", 63)
	for _, tt := range []struct{ text, want string }{
		{"lake.internal", "lake.internal"},
		{"Lake-1.INTERNAL.", "lake-1.internal"},
		{"lake_service", "lake_service"},
		{"lake", "lake"},
		{"localhost", "localhost"},
		{"1.lake", "1.lake"},
		{"ip-10-0-0-1.eu-west-1.compute.internal", "ip-10-0-0-1.eu-west-1.compute.internal"},
		{"xn--bcher-kva.example", "xn--bcher-kva.example"},
		{label + ".example", label + ".example"},
		{strings.Repeat("abc.", 63) + "a", strings.Repeat("abc.", 63) + "a"},

		{"", ""},
		{".", ""},
		{"lake..internal", ""},
		{".lake", ""},
		{"lake..", ""},
		{"-lake.internal", ""},
		{"lake-.internal", ""},
		{"lake internal", ""},
		{"lake/internal", ""},
		{"lake:8080", ""},
		{"http://lake", ""},
		{"*.lake", ""},
		{"bücher.example", ""},
		{"la\u212ae", ""}, // the sign for kelvin, whose small letter is k
		{"lake\x00", ""},
		{"10.0.0.256", ""},
		{"10.0.0", ""},
		{"10", ""},
		{"[::1]", ""},
		{"fe80::1%eth0", ""},
		{"a" + label + ".example", ""},
		{strings.Repeat("abc.", 63) + "ab", ""},
	} {
		got, reason := Hostname(tt.text)
		if got != tt.want || (reason == "") != (tt.want != "") {
			t.Errorf("%q: %q, %q, want %q", tt.text, got, reason, tt.want)
		}
	}
}
