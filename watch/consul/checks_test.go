package consul

import (
	"encoding/json"
	"fmt"
	"hash/maphash"
	"strings"
	"testing"
)

// list is an answer of /v1/health/state/any.
func list(t testing.TB, checks ...wireCheck) []byte {
	t.Helper()
	data, err := json.MarshalIndent(checks, "", "    ")
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// What the checks of a datacenter say of a service is what its own answer says,
// with the checks of its nodes, whatever their order and their output.
func TestChecksSayWhatAServicesAnswerSays(t *testing.T) {
	seed := maphash.MakeSeed()
	on := func(node, id string, checks ...check) (e entry) {
		e.Node.Node, e.Service.ID, e.Checks = node, id, checks
		return e
	}
	seen := checksOf(seed, []entry{
		on("N1", "a", check{"serfHealth", "critical"}, check{"service:a", "passing"}),
		on("N1", "b", check{"serfHealth", "critical"}, check{"service:b", "warning"}),
	})
	all := []wireCheck{
		{"n1", "service:b", "warning", `"}]`, "b", "lake"},
		{"n1", "service:c", "critical", "", "c", "dome"},
		{"n1", "service:a", "passing", "\\\"", "a", "lake"},
		{"n1", "serfHealth", "critical", "[{", "", ""},
		{"n2", "serfHealth", "critical", "", "", ""},
	}
	known := func(key instanceKey) bool { _, ok := seen.instances[key]; return ok }
	c, err := newCheckReader(seed).read(list(t, all...), 1)
	if err != nil {
		t.Fatal(err)
	}
	if c.want("lake", &seen, known) != seen.of(every) {
		t.Error("all checks differ")
	}
	if c, err = newCheckReader(seed).read(list(t, all[0], all[1], all[3], all[4]), 1); err != nil {
		t.Fatal(err)
	}
	if c.want("lake", &seen, known) != seen.of(failing) {
		t.Error("those that do not pass differ")
	}

	// One of an instance that is not known yet counts, and of another's not.
	all = append(all, wireCheck{"n3", "service:d", "passing", "", "d", "Lake"})
	if c, err = newCheckReader(seed).read(list(t, all...), 1); err != nil {
		t.Fatal(err)
	}
	if c.want("lake", &seen, known) == seen.of(every) {
		t.Error("an instance that is new is not seen")
	}
	if c.want("lake", &seen, func(instanceKey) bool { return true }) != seen.of(every) {
		t.Error("an instance of another service counts")
	}
}

// Only elements that are not as they were are decoded.
func TestChecksAreDecodedOnce(t *testing.T) {
	r := newCheckReader(maphash.MakeSeed())
	var all []wireCheck
	for i := range 2000 {
		all = append(all, wireCheck{Node: fmt.Sprint("n", i), CheckID: "c", Status: "passing", Output: strings.Repeat("x", 100), ServiceID: "s", ServiceName: "s"})
	}
	read := func() float64 {
		body := list(t, all...)
		return testing.AllocsPerRun(1, func() {
			if _, err := r.read(body, 1); err != nil {
				t.Fatal(err)
			}
		})
	}
	read()
	same := read()
	r.last = nil
	body := list(t, all...)
	anew := testing.AllocsPerRun(1, func() {
		r.last = nil
		if _, err := r.read(body, 1); err != nil {
			t.Fatal(err)
		}
	})
	if same > anew/10 {
		t.Errorf("%.0f allocations for an answer like the last, %.0f for the first", same, anew)
	}
	all[7].Status = "critical"
	if read(); len(r.last) != 2000 {
		t.Errorf("%d checks are kept", len(r.last))
	}
}

func TestWhatIsNotAListOfChecks(t *testing.T) {
	for _, body := range []string{``, `null`, `{}`, `[`, `]`, `[{]`, `[1]`, `["a"]`, `[{"Node":"a]`, `[{"Node":1}]`, `[{}]]`, `[[{}]`, `<html>`, `[}{]`} {
		if _, err := newCheckReader(maphash.MakeSeed()).read([]byte(body), 1); err == nil {
			t.Errorf("%q was read", body)
		}
	}
	for _, body := range []string{`[]`, ` [ ] `, "[\n]\n"} {
		if c, err := newCheckReader(maphash.MakeSeed()).read([]byte(body), 1); err != nil || len(c.of) > 0 {
			t.Errorf("%q: %v", body, err)
		}
	}
}

// However an answer is cut, what is read of it is what JSON has in it.
func FuzzElements(f *testing.F) {
	f.Add([]byte(`[{"Node":"a\\\"","Tags":["]"]}, {"b":{"c":[{}]}}]`))
	f.Fuzz(func(t *testing.T, body []byte) {
		var got []json.RawMessage
		err := elements(body, func(raw []byte) error {
			got = append(got, raw)
			return nil
		})
		var want []json.RawMessage
		if json.Unmarshal(body, &want) != nil || want == nil {
			return
		}
		objects := true
		for _, w := range want {
			objects = objects && (w[0] == '{' || w[0] == '[')
		}
		if objects != (err == nil) || objects && fmt.Sprintf("%s", got) != fmt.Sprintf("%s", want) {
			t.Errorf("%q: %s, %v", body, got, err)
		}
	})
}
