package replica

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// A fleet of any size comes over in messages of bounded size.
func TestAFleetIsSentInParts(t *testing.T) {
	for _, n := range []int{0, 1, 10_000} {
		var all []json.RawMessage
		for i := range n {
			all = append(all, json.RawMessage(fmt.Sprintf(`{"node":"n-%d","text":%q}`, i, strings.Repeat("x", 200))))
		}
		var got []json.RawMessage
		messages := 0
		if err := inMessages(all, func(data []byte) error {
			messages++
			if len(data) > messageSize+messageSize/10 {
				t.Errorf("a message of %d bytes", len(data))
			}
			var some []json.RawMessage
			err := json.Unmarshal(data, &some)
			got = append(got, some...)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if !slices.EqualFunc(all, got, func(a, b json.RawMessage) bool { return string(a) == string(b) }) {
			t.Errorf("%d of %d came over", len(got), n)
		}
		if n == 10_000 && (messages < 5 || messages > 20) {
			t.Errorf("%d messages", messages)
		}
	}
	gone := errors.New("gone")
	if err := inMessages([]json.RawMessage{json.RawMessage("1")}, func([]byte) error { return gone }); !errors.Is(err, gone) {
		t.Errorf("the end of the stream: %v", err)
	}
}
