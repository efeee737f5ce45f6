/// A chart's frame: grid, ticks, axis names, and a plot area for marks.
package struct Chart {
    package var canvas: SVGCanvas
    package let x: Axis
    package let y: Axis
    package let clip: String

    /// What surrounds the plot area.
    package struct Margins {
        package var left = 58.0
        package var right = 76.0
        package var top = 14.0
        package var bottom = 46.0

        package init() {}
    }

    /// Draws the frame.
    /// - Parameters:
    ///   - name: unique in the page.
    ///   - x: makes the axis between two places of the canvas; likewise `y`.
    package init(
        name: String, width: Double, height: Double, margins: Margins = Margins(), xName: String, yName: String,
        x: (Double, Double) -> Axis, y: (Double, Double) -> Axis, xTick: (Double) -> String
    ) {
        canvas = SVGCanvas(width: width, height: height)
        let (left, right) = (margins.left, width - margins.right)
        let (top, bottom) = (margins.top, height - margins.bottom)
        self.x = x(left, right)
        self.y = y(bottom, top)
        clip = "clip-" + name
        canvas.clip(clip, left, top, right - left, bottom - top)
        let yTicks = self.y.ticks(5)
        let decimals = Axis.decimals(yTicks)
        for tick in yTicks {
            canvas.line(left, self.y(tick), right, self.y(tick), "grid")
            let text = self.y.scale == .linear ? NumberText.fixed(tick, decimals) : NumberText.scientific(tick)
            canvas.text(left - 8, self.y(tick) + 4, text, "tick", .end)
        }
        for tick in self.x.ticks(5) {
            canvas.line(self.x(tick), bottom, self.x(tick), bottom + 4, "axis")
            canvas.text(self.x(tick), bottom + 18, xTick(tick), "tick", .middle)
        }
        canvas.line(left, bottom, right, bottom, "axis")
        canvas.text((left + right) / 2, height - 8, xName, "name", .middle)
        canvas.text(left - 48, top - 2, yName, "name")
    }

    /// A mark's name.
    package struct Label {
        package var x: Double
        package var y: Double
        package var text: String
        package var style: String
        package var anchor = SVGCanvas.Anchor.start

        package init(x: Double, y: Double, text: String, style: String, anchor: SVGCanvas.Anchor = .start) {
            self.x = x
            self.y = y
            self.text = text
            self.style = style
            self.anchor = anchor
        }
    }

    /// Writes names beside their marks, moved up or down where they would overlap.
    package mutating func label(_ labels: [Label], spacing: Double = 14) {
        var placed: [Label] = []
        for var label in labels.sorted(by: { $0.y < $1.y }) {
            // Only names that share columns can overlap.
            let near = placed.filter { abs($0.x - label.x) < 58 }
            if let last = near.map(\.y).max(), label.y < last + spacing { label.y = last + spacing }
            placed.append(label)
        }
        // A pile that has grown past the frame is moved up as a whole.
        let overflow = (placed.map(\.y).max() ?? 0) - (canvas.height - 50)
        for label in placed {
            canvas.text(label.x, label.y + 4 - max(0, overflow), label.text, label.style, label.anchor)
        }
    }
}
