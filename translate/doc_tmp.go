package translate

type state struct{}
