// Command plot draws the samples of a soak, a curve a column, as SVG. It has a module
// of its own, so that the control plane does not depend on the library.
//
//	go run . SAMPLES.csv OUT.svg
package main

import (
	"encoding/csv"
	"fmt"
	"os"
	"strconv"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: plot SAMPLES.csv OUT.svg")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintf(os.Stderr, "plot: %v\n", err)
		os.Exit(1)
	}
}

func run(from, to string) error {
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // read only
	rows, err := csv.NewReader(f).ReadAll()
	if err != nil {
		return err
	}
	if len(rows) < 2 {
		return fmt.Errorf("%s has no samples", from)
	}
	var plots [][]*plot.Plot
	for column := 1; column < len(rows[0]); column++ {
		p, err := curve(rows, column)
		if err != nil {
			return err
		}
		plots = append(plots, []*plot.Plot{p})
	}
	canvas := vgsvg.New(18*vg.Centimeter, vg.Length(len(plots))*4*vg.Centimeter)
	tiles := draw.Tiles{Rows: len(plots), Cols: 1, PadY: 3 * vg.Millimeter}
	for i, row := range plot.Align(plots, tiles, draw.New(canvas)) {
		plots[i][0].Draw(row[0])
	}
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	if _, err := canvas.WriteTo(out); err != nil {
		return err
	}
	return out.Close()
}

// curve is one column over time, from zero.
func curve(rows [][]string, column int) (*plot.Plot, error) {
	var points plotter.XYs
	for _, row := range rows[1:] {
		seconds, err := strconv.ParseFloat(row[0], 64)
		if err != nil {
			return nil, err
		}
		value, err := strconv.ParseFloat(row[column], 64)
		if err != nil {
			return nil, err
		}
		points = append(points, plotter.XY{X: seconds / 60, Y: value})
	}
	line, err := plotter.NewLine(points)
	if err != nil {
		return nil, err
	}
	p := plot.New()
	p.Title.Text = rows[0][column]
	p.X.Label.Text = "minutes"
	p.Y.Min = 0
	p.Add(plotter.NewGrid(), line)
	return p, nil
}
