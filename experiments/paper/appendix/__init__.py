"""The appendix: A.1 stationarity, A.2 Fokker–Planck, A.3 KL decay, A.4 DSM = SM + C.

  equations   each equation as sums over nodes on the line, of the library's own functions
"""
