/// An SVG drawing as text. Colours come from the page's style sheet by class, so that light and dark pages both fit.
package struct SVGCanvas {
    package let width: Double
    package let height: Double
    private var body = ""

    package init(width: Double, height: Double) {
        self.width = width
        self.height = height
    }

    package enum Anchor: String { case start, middle, end }

    package mutating func line(_ x1: Double, _ y1: Double, _ x2: Double, _ y2: Double, _ style: String) {
        body += "<line x1=\"\(n(x1))\" y1=\"\(n(y1))\" x2=\"\(n(x2))\" y2=\"\(n(y2))\" class=\"\(style)\"/>\n"
    }

    package mutating func polyline(
        _ points: [(x: Double, y: Double)], _ style: String, clip: String? = nil, title: String = ""
    ) {
        let places = points.map { "\(n($0.x)),\(n($0.y))" }.joined(separator: " ")
        let clipping = clip.map { " clip-path=\"url(#\($0))\"" } ?? ""
        body += "<polyline points=\"\(places)\" class=\"\(style)\"\(clipping)>\(Self.titled(title))</polyline>\n"
    }

    package mutating func circle(_ x: Double, _ y: Double, _ radius: Double, _ style: String, title: String = "") {
        body +=
            "<circle cx=\"\(n(x))\" cy=\"\(n(y))\" r=\"\(n(radius))\" class=\"\(style)\">\(Self.titled(title))</circle>\n"
    }

    package mutating func text(_ x: Double, _ y: Double, _ text: String, _ style: String, _ anchor: Anchor = .start) {
        body +=
            "<text x=\"\(n(x))\" y=\"\(n(y))\" class=\"\(style)\" text-anchor=\"\(anchor.rawValue)\">\(HTMLText.escaped(text))</text>\n"
    }

    /// A region to clip to, by name.
    package mutating func clip(_ name: String, _ x: Double, _ y: Double, _ width: Double, _ height: Double) {
        body +=
            "<clipPath id=\"\(name)\"><rect x=\"\(n(x))\" y=\"\(n(y))\" width=\"\(n(width))\" height=\"\(n(height))\"/></clipPath>\n"
    }

    /// The drawing, with words for readers that do not see it.
    package func svg(label: String) -> String {
        "<svg viewBox=\"0 0 \(n(width)) \(n(height))\" role=\"img\" aria-label=\"\(HTMLText.escaped(label))\" "
            + "xmlns=\"http://www.w3.org/2000/svg\">\n\(body)</svg>\n"
    }

    private static func titled(_ title: String) -> String {
        title.isEmpty ? "" : "<title>\(HTMLText.escaped(title))</title>"
    }

    private func n(_ value: Double) -> String { NumberText.fixed(value, 1) }
}

/// Text inside HTML and SVG.
package enum HTMLText {
    package static func escaped(_ text: String) -> String {
        var result = ""
        for character in text.unicodeScalars {
            switch character {
            case "&": result += "&amp;"
            case "<": result += "&lt;"
            case ">": result += "&gt;"
            case "\"": result += "&quot;"
            default: result.unicodeScalars.append(character)
            }
        }
        return result
    }
}
