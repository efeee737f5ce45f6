import ApusTraining

/// The progress of a preparation on one line of the terminal, or a line for every tenth where standard error is no
/// terminal.
final class PreparationBar {
    /// The latest figures of the tokenising.
    private(set) var last: DataPreparation.Progress?
    private var shown = ContinuousClock.now - .seconds(1)
    private var isLineOpen = false
    private var tenths = 0

    func update(_ progress: DataPreparation.Progress) {
        if case .tokens = progress.phase { last = progress }
        let share = Double(progress.sourceBytes.read) / Double(max(progress.sourceBytes.total, 1))
        let rate = Double(progress.textBytes) / 1e6 / max(progress.seconds, 1e-9)
        let label: String
        switch progress.phase {
        case .vocabulary: label = "training the vocabulary"
        case .tokens: label = "preparing"
        }
        let left = progress.secondsLeft.map { ", \(Int($0.rounded(.up))) s left" } ?? ""
        let text = "\(label) \(Int(share * 100)) %, \(fixed(rate, 1)) MB/s\(left)"
        if Terminal.errorIsTerminal {
            guard ContinuousClock.now - shown > .milliseconds(100) else { return }
            shown = .now
            isLineOpen = true
            let filled = min(24, Int(share * 24))
            let bar = String(repeating: "█", count: filled) + String(repeating: "░", count: 24 - filled)
            Terminal.error("\r\(bar) \(text)\u{1B}[K")
        } else if Int(share * 10) != tenths {
            tenths = Int(share * 10)
            Terminal.error(text + "\n")
        }
    }

    func end() {
        if isLineOpen { Terminal.error("\r\u{1B}[K") }
    }
}
