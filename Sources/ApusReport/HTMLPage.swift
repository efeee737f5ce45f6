/// A page without scripts or outside files that follows the reader's choice of light or dark.
package struct HTMLPage {
    /// The title, also the heading.
    package var title: String
    /// What stands below the heading, as HTML.
    package var body: String

    package init(title: String, body: String) {
        self.title = title
        self.body = body
    }

    /// The page as text.
    package var html: String {
        """
        <!DOCTYPE html>
        <html lang="en">
        <head>
        <meta charset="utf-8">
        <meta name="viewport" content="width=device-width, initial-scale=1">
        <title>\(HTMLText.escaped(title))</title>
        <style>\(Self.style)</style>
        </head>
        <body>
        <main>
        <h1>\(HTMLText.escaped(title))</h1>
        \(body)
        </main>
        </body>
        </html>

        """
    }

    /// A chart with its caption.
    package static func figure(_ caption: String, _ chart: String) -> String {
        "<figure><figcaption>\(HTMLText.escaped(caption))</figcaption>\n\(chart)</figure>\n"
    }

    /// Names and values in a row.
    package static func settings(_ items: [(name: String, value: String)]) -> String {
        let lines = items.map {
            "<div><dt>\(HTMLText.escaped($0.name))</dt><dd>\(HTMLText.escaped($0.value))</dd></div>\n"
        }
        return "<dl>\n\(lines.joined())</dl>"
    }

    /// The style sheet. The colours of the first seven are those of Okabe and Ito, which most eyes tell apart, lighter on
    /// dark pages.
    private static let style = """

        :root { color-scheme: light dark; --page: #fcfcfb; --panel: #ffffff; --ink: #1b1d21; --soft: #5f656e;
          --rule: #e3e5e8; --c0: #4d535c; --c1: #0072b2; --c2: #d55e00; --c3: #009e73; --c4: #b2518c; --c5: #c48a00;
          --c6: #2f9bd8; --c7: #7a5ccf; }
        @media (prefers-color-scheme: dark) { :root { --page: #15171a; --panel: #1c1f23; --ink: #e8eaed; --soft: #a0a7b1;
          --rule: #33383f; --c0: #c3c9d1; --c1: #58a9e0; --c2: #ff8a3d; --c3: #2fc79b; --c4: #e58bbf; --c5: #efb73e;
          --c6: #8fd0f7; --c7: #b09cf2; } }
        body { margin: 0; background: var(--page); color: var(--ink);
          font: 15px/1.5 system-ui, -apple-system, "Segoe UI", "Helvetica Neue", Arial, sans-serif; }
        main { max-width: 1120px; margin: 0 auto; padding: 32px 24px 64px; }
        h1 { font-size: 26px; line-height: 1.2; margin: 0 0 16px; letter-spacing: -0.01em; }
        h2 { font-size: 18px; margin: 40px 0 12px; }
        dl { display: flex; flex-wrap: wrap; gap: 4px 28px; margin: 0 0 16px; }
        dl div { display: flex; gap: 8px; }
        dt { color: var(--soft); }
        dd { margin: 0; font-variant-numeric: tabular-nums; }
        .reading { max-width: 760px; margin: 0; }
        .note { color: var(--soft); font-size: 13px; max-width: 760px; margin: 10px 0 0; }
        .grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(480px, 100%), 1fr)); gap: 20px; }
        figure { margin: 0; padding: 14px 14px 8px; background: var(--panel); border: 1px solid var(--rule);
          border-radius: 8px; }
        figcaption { font-weight: 600; margin: 0 0 10px 2px; }
        svg { display: block; width: 100%; height: auto; overflow: visible; font-family: inherit; }
        .scroll { overflow-x: auto; }
        table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
        th, td { text-align: right; padding: 6px 12px; border-bottom: 1px solid var(--rule); white-space: nowrap; }
        thead th { color: var(--soft); font-weight: 500; font-size: 13px; }
        thead tr:first-child > * { border-bottom: none; padding-bottom: 0; text-align: center; }
        th:first-child { text-align: left; font-weight: 600; }
        .key { display: inline-block; width: 10px; height: 10px; border-radius: 50%; margin-right: 8px;
          background: var(--c); }
        .c0 { --c: var(--c0); } .c1 { --c: var(--c1); } .c2 { --c: var(--c2); } .c3 { --c: var(--c3); }
        .c4 { --c: var(--c4); } .c5 { --c: var(--c5); } .c6 { --c: var(--c6); } .c7 { --c: var(--c7); }
        .grid line.grid, line.grid { stroke: var(--rule); stroke-width: 1; }
        .axis { stroke: var(--soft); stroke-width: 1; }
        .tick, .name { fill: var(--soft); font-size: 12px; }
        .tick { font-variant-numeric: tabular-nums; }
        .label { fill: var(--c); font-size: 12.5px; font-weight: 600; }
        .curve { fill: none; stroke: var(--c); stroke-width: 1.8; stroke-linejoin: round; }
        .whisker { stroke: var(--c); stroke-width: 1.4; }
        .mark { fill: var(--c); stroke: var(--panel); stroke-width: 1.2; }
        summary { cursor: pointer; padding: 6px 0; white-space: pre-wrap; }
        th.output { font-weight: 400; white-space: pre-wrap; min-width: 360px; }
        @media print { body { background: #fff; } figure { break-inside: avoid; } }

        """
}
